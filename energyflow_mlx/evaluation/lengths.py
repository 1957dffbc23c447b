"""Groups of sentences by their length: whether short or long ones go wrong."""

from collections.abc import Sequence

import numpy as np

# Most words of each bucket but the last, which holds all longer sentences.
_BOUNDS = (5, 10, 15, 20)


def by_length(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers of the sentences in each bucket, under names as ``6 to 10 words``.

    Args:
        texts: The sentences; their length is that in words between white space.

    Returns:
        Short ones first; a bucket without sentences is left out.
    """
    words = np.array([len(text.split()) for text in texts])
    numbers = np.searchsorted(_BOUNDS, words)
    starts = [1, *(bound + 1 for bound in _BOUNDS)]
    names = [f"{a} to {b} words" for a, b in zip(starts, _BOUNDS, strict=False)]
    names.append(f"from {starts[-1]} words")
    found = {name: np.flatnonzero(numbers == n) for n, name in enumerate(names)}
    return {name: rows for name, rows in found.items() if len(rows)}


def by_label(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers of the sentences of each label, in the order of the labels' names."""
    found: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        found.setdefault(label, []).append(number)
    return {label: np.array(found[label]) for label in sorted(found)}

"""Shares of sentences by their length: whether short or long ones go wrong."""

from collections.abc import Sequence

import numpy as np

# Most words of each bucket but the last, which holds all longer sentences.
_BOUNDS = (5, 10, 15, 20)


def bucket_names() -> list[str]:
    """Name of each bucket, as ``6_to_10_words``."""
    starts = [1, *(bound + 1 for bound in _BOUNDS)]
    names = [f"{a}_to_{b}_words" for a, b in zip(starts, _BOUNDS, strict=False)]
    return [*names, f"from_{starts[-1]}_words"]


def share_by_length(holds: np.ndarray, truth: Sequence[str]) -> dict[str, float]:
    """Share of the sentences of each length that something holds of.

    Args:
        holds: Whether it does, ``[N]``.
        truth: The sentences; their length is that in words between white space.

    Returns:
        Share by name of the bucket; a bucket without sentences is left out.
    """
    words = np.array([len(text.split()) for text in truth])
    numbers = np.searchsorted(_BOUNDS, words)
    return {
        name: float(np.mean(holds[numbers == number]))
        for number, name in enumerate(bucket_names())
        if (numbers == number).any()
    }

"""Which items are equal: sentences to compute once, rows that do not compete."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def number_distinct(items: Iterable[Hashable]) -> np.ndarray:
    """Number of the distinct item that each item is, in order of first use.

    Returns:
        ``[N]`` int64; equal items, and only they, share a number.
    """
    numbers: dict[Hashable, int] = {}
    found = [numbers.setdefault(item, len(numbers)) for item in items]
    return np.array(found, np.int64)


def caseless(text: str) -> str:
    """What texts share that differ in letter case, or in white space at their ends."""
    return text.strip().lower()


def count_among(texts: Iterable[str], others: Iterable[str]) -> int:
    """How many texts are among others, letter case and white space at the ends aside.

    Only the keys of ``texts`` are held: they are the fewer ones.
    """
    keys = [caseless(text) for text in texts]
    wanted = set(keys)
    found = {key for key in map(caseless, others) if key in wanted}
    return sum(key in found for key in keys)


def deduplicate(
    texts: Sequence[str], *, ignore_case: bool = False
) -> tuple[list[str], np.ndarray]:
    """Distinct texts in order of first use, and the place of each text among them.

    Args:
        texts: N sentences.
        ignore_case: Take texts for equal that differ in letter case, or in white
            space at their ends, alone; the first of them stays.

    Returns:
        The D distinct texts, and places ``[N]`` int64 in ``[0, D)``.
    """
    keys = [caseless(text) for text in texts] if ignore_case else texts
    places = number_distinct(keys)
    _, first_uses = np.unique(places, return_index=True)
    return [texts[i] for i in first_uses], places

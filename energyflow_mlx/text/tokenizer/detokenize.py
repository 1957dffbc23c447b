"""Detokenizer: puts words and punctuation back together into a sentence.

A WordPiece tokenizer splits every punctuation mark off and forgets the spaces around
it. English spelling gives nearly all of them back: marks that follow a word, marks
that precede one, and a few that look at both neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_FOLLOWS = frozenset(".,!?;:)]}%…”°")
_PRECEDES = frozenset("([{$€£#“")
_BINDS = frozenset("-/_@+=’‘–—~^")
_PAIRED = frozenset("\"'")
_CONTRACTIONS = frozenset(("s", "t", "re", "ve", "ll", "d", "m", "clock", "all"))
_NAME_PREFIXES = frozenset("odl")  # o'brien, d'angelo, l'oreal
_THOUSANDS_DIGITS = 3


def detokenize(words: Sequence[str]) -> str:
    """Join words and punctuation marks as an English sentence is written.

    Args:
        words: Whole words and single punctuation marks, in order.

    Returns:
        The sentence; ``["don", "'", "t", "go", "."]`` gives ``don't go.``
    """
    is_open: dict[str, bool] = {}
    joins_next = False
    parts: list[str] = []
    for index, word in enumerate(words):
        if word.isalnum():
            joins_previous, joins_after = False, False
        else:
            joins_previous, joins_after = _sides(words, index, is_open)
        if parts and not (joins_next or joins_previous):
            parts.append(" ")
        parts.append(word)
        joins_next = joins_after
    return "".join(parts)


def _sides(
    words: Sequence[str], index: int, is_open: dict[str, bool]
) -> tuple[bool, bool]:
    """Whether a mark touches the word before it and the word after it."""
    mark = words[index]
    before = words[index - 1] if index else ""
    after = words[index + 1] if index + 1 < len(words) else ""
    if mark in _PAIRED:
        return _quote_sides(words, index, is_open)
    if mark in _FOLLOWS:
        touches = _INNER.get(mark)
        inner = touches is not None and touches(before, words[index + 1 : index + 3])
        return True, inner
    if mark in _PRECEDES:
        return False, True
    if mark in _BINDS:
        return True, True
    if mark == "&":
        initials = len(before) == 1 and len(after) == 1
        return initials, initials
    return False, False


def _quote_sides(
    words: Sequence[str], index: int, is_open: dict[str, bool]
) -> tuple[bool, bool]:
    """Sides of a quotation mark or apostrophe; tells opening from closing marks."""
    mark = words[index]
    if mark == "'" and not is_open.get(mark):
        after = words[index + 1] if index + 1 < len(words) else ""
        if after == "em":
            return False, True
        if _is_apostrophe(words, index):
            possessive = words[index - 1].endswith("s") and after not in _CONTRACTIONS
            return True, not possessive  # the dogs' tails; don't, ma'am
    elif mark == "'" and _is_contraction(words, index):
        return True, True
    is_open[mark] = not is_open.get(mark, False)
    return (False, True) if is_open[mark] else (True, False)


def _is_contraction(words: Sequence[str], index: int) -> bool:
    """Whether the mark stands inside one word: don't, o'clock, o'brien."""
    if not 0 < index < len(words) - 1 or not words[index - 1].isalnum():
        return False
    return words[index + 1] in _CONTRACTIONS or words[index - 1] in _NAME_PREFIXES


def _is_apostrophe(words: Sequence[str], index: int) -> bool:
    """Whether the mark ends or splits a word rather than opens a quotation."""
    if _is_contraction(words, index):
        return True
    if index == 0 or not words[index - 1].isalnum():
        return False
    later = range(index + 1, len(words))
    return not any(words[j] == "'" and not _is_contraction(words, j) for j in later)


def _in_abbreviation_or_number(before: str, following: Sequence[str]) -> bool:
    """3.5 and u.s., but not the end of a sentence."""
    if _between_digits(before, following):
        return True
    initial = len(before) == 1 and before.isalpha()
    return (
        initial
        and len(following) > 1
        and following[1] == "."
        and len(following[0]) == 1
        and following[0].isalpha()
    )


def _between_digits(before: str, following: Sequence[str]) -> bool:
    """5:30."""
    after = following[0] if following else ""
    return before[-1:].isdigit() and after[:1].isdigit()


def _before_thousands(before: str, following: Sequence[str]) -> bool:
    """1,000 but not 1, 2."""
    digits = _between_digits(before, following)
    return digits and len(following[0]) == _THOUSANDS_DIGITS


_INNER: dict[str, Callable[[str, Sequence[str]], bool]] = {
    ".": _in_abbreviation_or_number,
    ",": _before_thousands,
    ":": _between_digits,
}

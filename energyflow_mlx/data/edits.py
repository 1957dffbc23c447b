"""Sentences near real ones, as training data for what differs by a word.

A student sees each real sentence many times, and never one that differs from it by a
word, which is what it is asked to tell apart. Teachers give vectors of edited sentences
as of any other. An edit is a function of an own sentence's words, another sentence's,
and numbers drawn in [0, 1); words are what white space separates, so punctuation stays
with its word.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from energyflow_mlx.data.distinct import caseless

Words = list[str]

FEWEST_WORDS = 3
TRIES = 4  # for each sentence that is wanted
AUXILIARIES = ("is", "are", "was", "were", "can", "will", "has", "have")
ARTICLES = ("a", "an", "the")
_ONE = 2 / 3  # share of the edits of one word, the nearer ones; the others are of two
_DRAWS = 8  # numbers of one try: kind, own sentence, other sentence, five of the edit
_STREAM = 0xED17  # of the seed's random numbers: no other part of a run draws from it


def edited_sentences(
    texts: Sequence[str], taken: Iterable[str], count: int, seed: int
) -> list[str]:
    """Edits of sentences, distinct from each other and from the sentences taken.

    Each try draws a kind of ``KINDS``, a sentence and another one, all with equal
    chances, and is lost where the edit is not new or has fewer than ``FEWEST_WORDS``
    words. Doubles of PCG64 decide alone, so the same arguments give the same edits on
    every machine.

    Args:
        texts: Sentences that are edited; without any, nothing is made.
        taken: Sentences that no edit may equal, whatever the letter case and the
            white space; ``texts`` among them.
        count: Sentences wanted.
        seed: Seed of all that is drawn.

    Returns:
        ``count`` sentences, or fewer where ``TRIES`` tries for each did not give them.
    """
    random = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    known = {_digest(text) for text in taken}
    made: list[str] = []
    for _ in range(TRIES * count if texts else 0):
        if len(made) == count:
            break
        edit = _try(texts, random.random(_DRAWS).tolist())
        digest = _digest(edit)
        if len(edit.split()) >= FEWEST_WORDS and digest not in known:
            known.add(digest)
            made.append(edit)
    return made


def leave_out(words: Words, other: Words, draws: list[float]) -> Words:
    """One or two words left out."""
    gone = _places(words, draws)
    return [word for i, word in enumerate(words) if i not in gone]


def replace(words: Words, other: Words, draws: list[float]) -> Words:
    """One or two words replaced by words of the other sentence."""
    new = list(words)
    for place, draw in zip(_places(words, draws), draws[3:], strict=False):
        new[place] = other[int(draw * len(other))]
    return new


def swap(words: Words, other: Words, draws: list[float]) -> Words:
    """Two words that change places."""
    first, second = _two_places(words, draws)
    new = list(words)
    new[first], new[second] = words[second], words[first]
    return new


def rotate(words: Words, other: Words, draws: list[float]) -> Words:
    """The words from one place on, and then those before it."""
    place = 1 + int(draws[0] * (len(words) - 1))
    return words[place:] + words[:place]


def join_halves(words: Words, other: Words, draws: list[float]) -> Words:
    """The first half, and then the second half of the other sentence."""
    return words[: (len(words) + 1) // 2] + other[len(other) // 2 :]


def negate(words: Words, other: Words, draws: list[float]) -> Words:
    """The sentence denied, in one of the ways that its words allow.

    A sentence with neither a leading article nor an auxiliary verb, or with a "not"
    or "no", stays as it is.
    """
    low = [word.lower() for word in words]
    verb = next((i for i, word in enumerate(low) if word in AUXILIARIES), None)
    ways = []
    if not {"no", "not"}.intersection(low):
        if verb is not None:
            ways.append([*words[: verb + 1], "not", *words[verb + 1 :]])
        if low[0] in ARTICLES:
            rest = [word for i, word in enumerate(words) if i not in (0, verb)]
            ways += [["No", *words[1:]], ["There", "is", "no", *rest]]
        if verb is not None and low[verb] in ("is", "was"):
            ways.append(["Nobody", *words[verb:]])
    return ways[int(draws[0] * len(ways))] if ways else words


KINDS = (leave_out, replace, swap, rotate, join_halves, negate)


def _try(texts: Sequence[str], draws: list[float]) -> str:
    """The edit that the numbers drawn choose; a sentence too short stays as it is."""
    kind = KINDS[int(draws[0] * len(KINDS))]
    words, other = (texts[int(draw * len(texts))].split() for draw in draws[1:3])
    if len(words) < FEWEST_WORDS:
        return " ".join(words)
    return " ".join(kind(words, other, draws[3:]))


def _places(words: Words, draws: list[float]) -> tuple[int, ...]:
    """One place or two different ones."""
    return _two_places(words, draws)[: 1 if draws[2] < _ONE else 2]


def _two_places(words: Words, draws: list[float]) -> tuple[int, int]:
    """Two different places, each pair with an equal chance."""
    first = int(draws[0] * len(words))
    second = int(draws[1] * (len(words) - 1))
    return first, second + (second >= first)


def _digest(text: str) -> bytes:
    """Eight bytes for a sentence: millions of them are held while edits are made.

    Different sentences that share them would cost an edit, and give no double.
    """
    key = caseless(" ".join(text.split())).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8).digest()

"""Sentences near real ones, as training data for what differs by a word.

A student sees each real sentence many times, and never one that differs from it by a
word, which is what it is asked to tell apart. Teachers give vectors of edited sentences
as of any other. An edit is a function of an own sentence's words, another sentence's,
and numbers drawn in [0, 1); words are what white space separates, so punctuation stays
with its word, but for the marks that end the own sentence, which end the edit too.
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
END_MARKS = " .!?"
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

    A sentence with neither a leading article nor a verb, or with a "not" or "no", stays
    as it is.
    """
    subject, verb, rest = _clause(words)
    low = [word.lower() for word in words]
    ways = []
    if not {"no", "not"}.intersection(low):
        if verb:
            ways.append([*subject, *verb, "not", *rest])
        if low[0] in ARTICLES:
            ways += [["No", *words[1:]], ["There", "is", "no", *subject[1:], *rest]]
        if verb and verb[0].lower() in ("is", "was"):
            ways.append(["Nobody", *verb, *rest])
    return _one_of(ways, draws, words)


def reword(words: Words, other: Words, draws: list[float]) -> Words:
    """The same said otherwise, in one of the ways that its words allow.

    A sentence with neither a leading article nor a verb stays as it is, and one that
    begins with its verb or with "there".
    """
    subject, verb, rest = _clause(words)
    first = subject[0].lower() if subject else "there"
    ways = []
    if verb and first != "there":
        ways = [[*subject, *rest], [*subject, *verb, *rest]]
        ways.append([*subject, "that", *verb, *rest])
    if ways or first in ARTICLES:
        ways.append(["There", *(verb or ["is"]), first, *subject[1:], *rest])
    return _one_of(ways, draws, words)


KINDS = (leave_out, replace, swap, rotate, join_halves, negate, reword)


def _try(texts: Sequence[str], draws: list[float]) -> str:
    """The edit that the numbers drawn choose; a sentence too short stays as it is."""
    kind = KINDS[int(draws[0] * len(KINDS))]
    (words, end), (other, _) = (_parts(texts[int(x * len(texts))]) for x in draws[1:3])
    if len(words) >= FEWEST_WORDS and other:
        words = kind(words, other, draws[3:])
    return " ".join(words) + end


def _parts(text: str) -> tuple[Words, str]:
    """The words of a sentence, and the marks that end it."""
    text = text.strip()
    body = text.rstrip(END_MARKS)
    return body.split(), text[len(body) :]


def _one_of(ways: list[Words], draws: list[float], words: Words) -> Words:
    """One of the ways, each with an equal chance; the words where there is none."""
    return ways[int(draws[0] * len(ways))] if ways else words


def _clause(words: Words) -> tuple[Words, Words, Words]:
    """What stands before the first auxiliary verb, that verb, and what follows.

    Without one, "is" or "are" goes before the first participle; without that, there is
    no verb, and all is subject.
    """
    low = [word.lower() for word in words]
    for place, word in enumerate(low):
        if word in AUXILIARIES:
            return words[:place], [words[place]], words[place + 1 :]
    for place, word in enumerate(low[2:], 2):
        if word.endswith("ing"):
            verb = "is" if low[0] in ARTICLES else "are"
            return words[:place], [verb], words[place:]
    return words, [], []


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

"""Iterative correction of decoded sentences.

A decoded sentence is embedded again; where its vector misses the target, the decoder is
asked once more, for a vector moved by the difference, which any decoder understands.
One that has a corrector reads the guess and its vector too, once for each guess (Morris
et al., "Text Embeddings Reveal (Almost) As Much As Text", 2023, section 3). Each row
keeps its best guesses, so its cosine with the target never falls.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from energyflow_mlx.data.vectors import unit_rows

# A row above this cosine has the sentence, or one that no vector tells from it.
EXACT = 1.0 - 1e-6
_RATE = 0.5  # share of the difference; a half did better than the whole on captions
_FURTHER = 2.0  # times the difference, where edits are looked for; likewise


class Attempt(NamedTuple):
    """What the decoder is asked in one round, about n of the B rows.

    Attributes:
        rows: Which rows, ``[n]``; one of which several guesses go on is there as often.
        round: Corrections done before; 0 for the first guess.
        condition: Vectors to decode, ``[n, E]``.
        target: Vectors that they should say, ``[n, E]``.
        ids: Guesses to be read, ``[n, T]``; none = none are.
        vectors: Their vectors, as long as the targets, ``[n, E]``; likewise.
    """

    rows: np.ndarray
    round: int
    condition: np.ndarray
    target: np.ndarray
    ids: np.ndarray | None = None
    vectors: np.ndarray | None = None


class Correction(NamedTuple):
    """Best sentences found so far.

    Attributes:
        ids: Tokens as the decoder returned them, ``[B, T]``.
        cosine: Cosine of each sentence's vector with its target, ``[B]``.
    """

    ids: np.ndarray
    cosine: np.ndarray


# Tries of every row, ``[n, K, T]``, and vectors ``[m, E]`` of sentences ``[m, T]``.
Tell = Callable[[Attempt], np.ndarray]
Embed = Callable[[np.ndarray], np.ndarray]
# Edits of an attempt's guesses: which of these each is of, ``[m]``, and it, ``[m, T]``.
Edit = Callable[[Attempt], tuple[np.ndarray, np.ndarray]]


class _Guesses(NamedTuple):
    """Guesses at the rows, any number at each.

    Attributes:
        row: Of each, ``[m]``.
        ids: ``[m, T]``.
        vectors: Their unit vectors, ``[m, E]``.
        cosine: With their targets, ``[m]``.
        condition: What each was decoded from, of unit length, ``[m, E]``.
        rate: Share of the difference that its next condition moves by, ``[m]``.
        is_unread: Whether the decoder is to read it, ``[m]``.
    """

    row: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray
    cosine: np.ndarray
    condition: np.ndarray
    rate: np.ndarray
    is_unread: np.ndarray

    def at(self, places: np.ndarray) -> "_Guesses":
        """Some of them."""
        return _Guesses(*(array[places] for array in self))

    def best(self, count: int) -> "_Guesses":
        """The best so many of each row, no sentence twice; of equal ones the first.

        They come row by row, each row's best first.
        """
        kept: list[int] = []
        taken: dict[int, set[bytes]] = {}
        for place in np.lexsort((-self.cosine, self.row)):
            own = taken.setdefault(int(self.row[place]), set())
            sentence = self.ids[place].tobytes()
            if len(own) < count and sentence not in own:
                own.add(sentence)
                kept.append(int(place))
        return self.at(np.array(kept))

    @property
    def first(self) -> np.ndarray:
        """Place of the best of each row, where they come as ``best`` has them."""
        return np.unique(self.row, return_index=True)[1]


class _Best:
    """The best guesses at every row so far, and what is asked next.

    condition <- condition + rate * (target - vector of the guess), from the condition
    that gave the guess; the rate of one that led to nothing better is halved.

    Args:
        tell: The decoder.
        embed: Vectors of sentences.
        told: Vectors to be told, ``[B, E]``.
        reads: Whether the decoder reads guesses.
        kept: Guesses of each row that go on.
    """

    def __init__(
        self, tell: Tell, embed: Embed, told: np.ndarray, *, reads: bool, kept: int
    ) -> None:
        self._tell, self._embed = tell, embed
        self._told, self._reads, self._kept = told, reads, kept
        self._length = np.linalg.norm(told, axis=-1, keepdims=True)
        self._target = unit_rows(told)

    def begin(self) -> None:
        """Make the first guesses at every row."""
        rows = np.arange(len(self._told))
        tries = self._tell(Attempt(rows, 0, self._told, self._told))
        rates = np.full(len(rows), _RATE, np.float32)
        self._guesses = self._heard(tries, rows, self._target, rates).best(self._kept)

    def improve(self, number: int) -> None:
        """Ask once more from every guess at a row that is not exact.

        Args:
            number: Of the round.
        """
        now, found = self._guesses, [self._guesses]
        best = now.cosine[now.first]
        is_live = np.repeat(best, np.diff([*now.first, len(now.row)])) <= EXACT
        unread, read = (np.flatnonzero(is_live & (now.is_unread == b)) for b in (1, 0))
        for asked, reads in ((unread, True), (read, False)):
            if len(asked):
                new = self._asked(now.at(asked), number, reads=reads)
                nearest = new.cosine.reshape(len(asked), -1).max(axis=1)
                now.rate[asked[nearest <= now.cosine[asked]]] *= 0.5
                found.append(new)
        now.is_unread[unread] = False
        self._guesses = _joined(found).best(self._kept)

    def edit(self, edit: Edit, number: int) -> None:
        """Try edits of the best sentence of every row that is not exact.

        The decoder is asked what is likely in it for the target moved by ``_FURTHER``
        times the difference.

        Args:
            edit: Edits of sentences.
            number: Of the round.
        """
        best = self._guesses.at(self._guesses.first)
        asked = best.at(np.flatnonzero(best.cosine <= EXACT))
        if not len(asked.row):
            return
        target, length = self._target[asked.row], self._length[asked.row]
        moved = unit_rows(target + _FURTHER * (target - asked.vectors))
        attempt = Attempt(
            *(asked.row, number, moved * length, self._told[asked.row]),
            *(asked.ids, asked.vectors * length),
        )
        of, ids = edit(attempt)
        if not len(of):
            return
        new = self._heard(ids[:, None], asked.row[of], moved[of], asked.rate[of])
        self._guesses = _joined([best, new]).best(1)

    def _asked(self, asked: _Guesses, number: int, *, reads: bool) -> _Guesses:
        """What the decoder says next, ``[m * K]``: K tries for each of some guesses."""
        row, own, target = asked.row, asked.vectors, self._target[asked.row]
        moved = unit_rows(asked.condition + asked.rate[:, None] * (target - own))
        length = self._length[row]
        attempt = Attempt(row, number, moved * length, self._told[row])
        if reads:
            attempt = attempt._replace(ids=asked.ids, vectors=own * length)
        return self._heard(self._tell(attempt), row, moved, asked.rate)

    def _heard(
        self,
        tries: np.ndarray,
        row: np.ndarray,
        condition: np.ndarray,
        rate: np.ndarray,
    ) -> _Guesses:
        """Tries ``[m, K, T]`` as guesses, with their vectors."""
        count = tries.shape[1]
        row, condition, rate = (np.repeat(a, count, 0) for a in (row, condition, rate))
        ids = tries.reshape(len(row), -1)
        vectors = unit_rows(self._embed(ids))
        cosine = (vectors * self._target[row]).sum(axis=-1)
        is_unread = np.full(len(row), self._reads)
        return _Guesses(row, ids, vectors, cosine, condition, rate, is_unread)

    def found(self) -> Correction:
        """The best sentence of every row."""
        best = self._guesses.at(self._guesses.first)
        return Correction(best.ids, best.cosine)


def _joined(parts: Sequence[_Guesses]) -> _Guesses:
    return _Guesses(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def correct(
    tell: Tell,
    embed: Embed,
    target: np.ndarray,
    *,
    rounds: int,
    reads_guesses: bool = False,
    kept: int = 1,
    edits: Sequence[Edit] = (),
) -> Iterator[Correction]:
    """Decode vectors, then correct what the sentences miss.

    A row is left alone once its cosine is above ``EXACT``. The best ``kept`` guesses
    of all rounds go on: each round asks from every one of them.

    Args:
        tell: The decoder.
        embed: Vectors of sentences; of a student or, through the text, of a teacher.
        target: Vectors to be told, ``[B, E]``; compared by direction, and their length
            is that of every condition.
        rounds: Corrections after the first guess.
        reads_guesses: Whether the decoder can read a guess; it then reads each once, in
            the round after it was made.
        kept: Guesses of a row that go on.
        edits: What edits sentences in each round after the last correction: they are
            nearly right then, and lack what no other guess brings.

    Yields:
        The best sentences after 0, 1, ... ``rounds`` corrections; the last ones are
        edited.

    Raises:
        ValueError: ``rounds`` is negative.
    """
    if rounds < 0:
        raise ValueError(f"[correct] rounds must be at least 0, got {rounds}.")
    told = np.asarray(target, dtype=np.float32)
    best = _Best(tell, embed, told, reads=reads_guesses, kept=kept)
    best.begin()
    for number in range(rounds + 1):
        if number:
            best.improve(number)
        if number == rounds:
            for later, edit in enumerate(edits, rounds + 1):
                best.edit(edit, later)
        yield best.found()

"""Iterative correction of decoded sentences.

A decoded sentence is embedded again; where its vector misses the target, the decoder is
asked once more, for a vector moved by the difference, which any decoder understands.
One that has a corrector reads the guess and its vector too, once for each guess (Morris
et al., "Text Embeddings Reveal (Almost) As Much As Text", 2023, section 3). Each row
keeps its best guess, so its cosine with the target never falls.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from energyflow_mlx.data.vectors import unit_rows

# A row above this cosine has the sentence, or one that no vector tells from it.
EXACT = 1.0 - 1e-6
_RATE = 0.5  # share of the difference; a half did better than the whole on captions


class Attempt(NamedTuple):
    """What the decoder is asked in one round, about n of the B rows.

    Attributes:
        rows: Which rows, ``[n]``.
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


class _Best:
    """The best guess of every row so far, and what its next condition is.

    condition <- condition + rate * (target - vector of the guess), from the condition
    that gave the best guess; after a failure the row's rate is halved.
    """

    def __init__(self, told: np.ndarray, rate: float) -> None:
        self._told = told
        self._length = np.linalg.norm(told, axis=-1, keepdims=True)
        self._target = unit_rows(told)
        self._condition = self._target.copy()
        self._rates = np.full((len(told), 1), rate, dtype=np.float32)

    def begin(self, tell: Tell, embed: Embed) -> None:
        """Make the first guess at every row."""
        rows = np.arange(len(self._told))
        tries = tell(Attempt(rows, 0, self._told, self._told))
        self.ids, self.vectors, self.cosine = _nearest(tries, embed, self._target)

    def improve(
        self, tell: Tell, embed: Embed, rows: np.ndarray, number: int, *, reads: bool
    ) -> np.ndarray:
        """Ask once more about some rows; returns which of them got better, ``[n]``.

        Args:
            tell: The decoder.
            embed: Vectors of sentences.
            rows: Which, ``[n]``.
            number: Of the round.
            reads: Whether the decoder reads their guesses.
        """
        own, target = self.vectors[rows], self._target[rows]
        moved = unit_rows(self._condition[rows] + self._rates[rows] * (target - own))
        length = self._length[rows]
        attempt = Attempt(rows, number, moved * length, self._told[rows])
        if reads:
            attempt = attempt._replace(ids=self.ids[rows], vectors=own * length)
        ids, vectors, cosine = _nearest(tell(attempt), embed, target)
        better = cosine > self.cosine[rows]
        changed = rows[better]
        self.ids[changed], self.vectors[changed] = ids[better], vectors[better]
        self.cosine[changed] = cosine[better]
        self._condition[changed] = moved[better]
        self._rates[rows[~better]] *= 0.5
        return better

    def found(self) -> Correction:
        """What is returned of it."""
        return Correction(self.ids.copy(), self.cosine.copy())


def correct(
    tell: Tell,
    embed: Embed,
    target: np.ndarray,
    *,
    rounds: int,
    reads_guesses: bool = False,
    rate: float = _RATE,
) -> Iterator[Correction]:
    """Decode vectors, then correct what the sentences miss.

    A row is left alone once its cosine is above ``EXACT``. A guess replaces the best
    one when its cosine is higher.

    Args:
        tell: The decoder.
        embed: Vectors of sentences; of a student or, through the text, of a teacher.
        target: Vectors to be told, ``[B, E]``; compared by direction, and their length
            is that of every condition.
        rounds: Corrections after the first guess.
        reads_guesses: Whether the decoder can read a guess; it then does so in the
            round after a row got it.
        rate: Share of the difference that a condition moves by.

    Yields:
        The best sentences after 0, 1, ... ``rounds`` corrections.

    Raises:
        ValueError: ``rounds`` is negative.
    """
    if rounds < 0:
        raise ValueError(f"[correct] rounds must be at least 0, got {rounds}.")
    best = _Best(np.asarray(target, dtype=np.float32), rate)
    best.begin(tell, embed)
    yield best.found()
    is_unread = np.full(len(target), reads_guesses)
    for number in range(1, rounds + 1):
        rows = np.flatnonzero(best.cosine <= EXACT)
        unread, read = rows[is_unread[rows]], rows[~is_unread[rows]]
        for asked, reads in ((unread, True), (read, False)):
            if len(asked):
                better = best.improve(tell, embed, asked, number, reads=reads)
                is_unread[asked] = better & reads_guesses
        yield best.found()


def _nearest(
    tries: np.ndarray, embed: Embed, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The try of each row that comes nearest: ids, unit vectors, cosines.

    Args:
        tries: ``[n, K, T]``.
        embed: Vectors of sentences.
        target: Unit vectors, ``[n, E]``.
    """
    n, k, _ = tries.shape
    vectors = unit_rows(embed(tries.reshape(n * k, -1))).reshape(n, k, -1)
    cosines = (vectors * target[:, None]).sum(axis=-1)  # [n, K]
    chosen = cosines.argmax(axis=-1)
    each = np.arange(n)
    return tries[each, chosen], vectors[each, chosen], cosines[each, chosen]

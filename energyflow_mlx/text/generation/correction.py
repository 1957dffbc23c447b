"""Iterative correction of decoded sentences.

A decoded sentence is embedded again; where its vector misses the target, the decoder is
asked once more: with the guess and its vector, where it has a corrector to read them
(Morris et al., "Text Embeddings Reveal (Almost) As Much As Text", 2023, section 3),
else for a vector moved by the difference, which any decoder understands. Each row keeps
its best guess, so its cosine with the target never falls.
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
        ids: Their best guesses so far, ``[n, T]``; none in round 0.
        vectors: Those guesses' vectors, as long as the targets, ``[n, E]``; likewise.
    """

    rows: np.ndarray
    round: int
    condition: np.ndarray
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


class _Moved:
    """Conditions that move from where the best guess came from.

    condition <- condition + rate * (target - vector of the guess), row by row; after a
    failure the row's rate is halved.
    """

    def __init__(self, target: np.ndarray, rate: float) -> None:
        self._target, self._condition = target, target.copy()
        self._rates = np.full((len(target), 1), rate, dtype=np.float32)

    def next(self, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Conditions ``[n, E]`` of unit length."""
        missed = self._target[rows] - vectors
        self._asked = unit_rows(self._condition[rows] + self._rates[rows] * missed)
        return self._asked

    def note(self, rows: np.ndarray, better: np.ndarray) -> None:
        """Take the conditions that gave a better guess; go half as far elsewhere."""
        self._condition[rows[better]] = self._asked[better]
        self._rates[rows[~better]] *= 0.5


def correct(
    tell: Tell,
    embed: Embed,
    target: np.ndarray,
    *,
    rounds: int,
    reads_guesses: bool = False,
    is_drawn: bool = False,
    rate: float = _RATE,
) -> Iterator[Correction]:
    """Decode vectors, then correct what the sentences miss.

    A row is left alone once its cosine is above ``EXACT``, or where the decoder would
    only be asked the same again. A guess replaces the best one when its cosine is
    higher.

    Args:
        tell: The decoder.
        embed: Vectors of sentences; of a student or, through the text, of a teacher.
        target: Vectors to be told, ``[B, E]``; compared by direction, and their length
            is that of every condition.
        rounds: Corrections after the first guess.
        reads_guesses: Whether the decoder reads the guess; else its condition moves.
        is_drawn: Whether it may answer the same question differently.
        rate: Share of the difference that a condition moves by.

    Yields:
        The best sentences after 0, 1, ... ``rounds`` corrections.

    Raises:
        ValueError: ``rounds`` is negative.
    """
    if rounds < 0:
        raise ValueError(f"[correct] rounds must be at least 0, got {rounds}.")
    told = np.asarray(target, dtype=np.float32)
    length = np.linalg.norm(told, axis=-1, keepdims=True)
    target = unit_rows(told)
    rows = np.arange(len(told))
    moved = _Moved(target, rate)
    ids, vectors, best = _best(tell(Attempt(rows, 0, told)), embed, target)
    yield Correction(ids.copy(), best.copy())
    rows = rows[best <= EXACT]
    for number in range(1, rounds + 1):
        if len(rows):
            own = vectors[rows]
            asked = told[rows]
            if not reads_guesses:
                asked = moved.next(rows, own) * length[rows]
            attempt = Attempt(rows, number, asked, ids[rows], own * length[rows])
            guess, guess_vectors, cosine = _best(tell(attempt), embed, target[rows])
            better = cosine > best[rows]
            changed = rows[better]
            ids[changed], vectors[changed] = guess[better], guess_vectors[better]
            best[changed] = cosine[better]
            if not reads_guesses:
                moved.note(rows, better)
            elif not is_drawn:
                rows = changed
            rows = rows[best[rows] <= EXACT]
        yield Correction(ids.copy(), best.copy())


def _best(
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

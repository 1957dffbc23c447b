"""Iterative correction of decoded sentences.

A decoded sentence is encoded again; where its vector misses the target, the decoder is
asked for a vector moved by the difference. After Morris et al., "Text Embeddings Reveal
(Almost) As Much As Text", 2023, section 3, whose corrector is a trained model: here the
correction acts on the condition alone, so any decoder can be used as it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from energyflow_mlx.data.vectors import unit_rows

Decode = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[np.ndarray], np.ndarray]


class Correction(NamedTuple):
    """Best sentences found.

    Attributes:
        ids: Tokens as the decoder returned them, ``[B, L]``.
        cosine: Cosine of each sentence's vector with its target, ``[B]``.
        first_cosine: The same for the first guess; never above ``cosine``.
    """

    ids: np.ndarray
    cosine: np.ndarray
    first_cosine: np.ndarray


def correct(
    decode: Decode,
    encode: Encode,
    target: np.ndarray,
    *,
    rounds: int = 3,
    rate: float = 0.5,
) -> Correction:
    """Decode vectors, then move the decoder's condition by what the result misses.

    condition <- condition + rate * (target - encode(guess)), row by row, from the best
    guess so far. A guess replaces the best one only when its cosine with the target is
    higher; after a failure the row's rate is halved.

    Args:
        decode: Vectors ``[B, E]`` to token ids ``[B, L]``.
        encode: Token ids ``[B, L]`` to vectors ``[B, E]``; of a student or, through
            the text, of the teacher.
        target: Vectors to be told, ``[B, E]``; compared by direction, and their length
            is that of every condition.
        rounds: Corrections after the first guess.
        rate: Share of the difference that is added; a half did better than the whole
            on real captions.

    Returns:
        The best sentence of each row and its cosine.

    Raises:
        ValueError: ``rounds`` is negative.
    """
    if rounds < 0:
        raise ValueError(f"[correct] rounds must be at least 0, got {rounds}.")
    told = np.asarray(target, dtype=np.float32)
    length = np.linalg.norm(told, axis=-1, keepdims=True)
    target = condition = unit_rows(told)
    ids = np.array(decode(told))
    vectors = unit_rows(encode(ids))
    first = best = (vectors * target).sum(axis=-1)
    rates = np.full((len(target), 1), rate, dtype=np.float32)
    for _ in range(rounds):
        moved = unit_rows(condition + rates * (target - vectors))
        guess = decode(moved * length)
        guess_vectors = unit_rows(encode(guess))
        cosine = (guess_vectors * target).sum(axis=-1)
        better = cosine > best
        column = better[:, None]
        ids = np.where(column, guess, ids)
        vectors = np.where(column, guess_vectors, vectors)
        condition = np.where(column, moved, condition)
        best = np.where(better, cosine, best)
        rates = np.where(column, rates, rates * 0.5)
    return Correction(ids, best, first)

"""Cosine, squared error and the Spearman correlation of STS sets."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation._rows import checked_pair

Encode = Callable[[Sequence[str]], np.ndarray]

_MOST_ROWS = 1000


@dataclass(frozen=True)
class StsPairs:
    """Sentence pairs with the similarity people gave them.

    Attributes:
        scores: Gold scores, ``[N]`` float64, on the set's own scale.
        first: First sentences.
        second: Second sentences.
    """

    scores: np.ndarray
    first: list[str]
    second: list[str]

    def __len__(self) -> int:
        return len(self.first)


def cosine_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of matching rows, ``[N, E]`` twice to ``[N]``; 0 where a row is zero."""
    a, b = checked_pair("a", a, "b", b)
    return np.einsum("ne,ne->n", unit_rows(a), unit_rows(b))


def mse_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared difference of matching rows, ``[N, E]`` twice to ``[N]``."""
    a, b = checked_pair("a", a, "b", b)
    return np.mean(np.square(a - b), axis=1)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties averaged.

    Returns:
        In [-1, 1]; NaN when one side is constant, where it is not defined.

    Raises:
        ValueError: The sides differ in length or hold fewer than two finite numbers.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or x.size < 2:
        raise ValueError(
            f"[spearman] x and y must be [N] with N at least 2, got {list(x.shape)} "
            f"and {list(y.shape)}."
        )
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise ValueError("[spearman] x and y must be finite.")
    rank_x, rank_y = (_average_ranks(side) - (x.size + 1) / 2 for side in (x, y))
    scale = np.sqrt(np.sum(rank_x**2) * np.sum(rank_y**2))
    return float(np.sum(rank_x * rank_y) / scale) if scale > 0 else float("nan")


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of the ranks they take up."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[group]


def sts_score(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> float:
    """Spearman x 100 of the cosine against the gold scores, all pairs pooled.

    Args:
        first: Vectors of the first sentences, ``[N, E]``.
        second: Vectors of the second sentences, ``[N, E]``.
        scores: Gold scores, ``[N]``.
    """
    return 100 * spearman(cosine_rows(first, second), scores)


def sts_scores(
    name: str,
    first: np.ndarray,
    second: np.ndarray,
    scores: np.ndarray,
    sizes: Iterable[int],
) -> dict[str, float]:
    """``sts_score`` of a set, named, and of shortened vectors as ``NAME_SIZE``.

    Args:
        name: Name of the set.
        first: Vectors of the pairs' first sentences, ``[N, E]``.
        second: Those of the second.
        scores: Gold scores, ``[N]``.
        sizes: Sizes d: the first d numbers of every vector count.
    """
    found = {name: sts_score(first, second, scores)}
    for size in sorted(sizes):
        parts = first[:, :size], second[:, :size]
        found[f"{name}_{size}"] = sts_score(*parts, scores)
    return found


def similarity_score(vectors: np.ndarray, targets: np.ndarray) -> float:
    """Spearman x 100 of the cosines between rows against those between target rows.

    Of the first 1,000 rows; their 499,500 pairs say enough.

    Args:
        vectors: ``[N, D]``; NaN where N is below 3.
        targets: ``[N, E]``; E may differ from D.
    """
    if len(vectors) < 3:
        return float("nan")
    pairs = np.triu_indices(min(len(vectors), _MOST_ROWS), k=1)
    own, gold = (unit_rows(x[:_MOST_ROWS]) for x in (vectors, targets))
    return spearman((own @ own.T)[pairs], (gold @ gold.T)[pairs]) * 100


def read_sts(path: Path) -> StsPairs:
    """Read an STS set: ``score<TAB>sentence 1<TAB>sentence 2``, UTF-8, no header.

    Raises:
        InputError: The file is missing or empty, a line is damaged, which is named, or
            all scores are one, so that nothing could agree with them.
    """
    path = Path(path)
    rows = [_parse_pair(path, number, line) for number, line in read_lines(path)]
    if not rows:
        raise InputError(f"[sts] {path}: must hold sentence pairs, got an empty file.")
    scores, first, second = zip(*rows, strict=True)
    if len(set(scores)) < 2:
        raise InputError(
            f"[sts] {path}: must hold two different scores or more, got one in "
            f"{len(scores)} lines."
        )
    return StsPairs(np.array(scores, np.float64), list(first), list(second))


def _parse_pair(path: Path, number: int, line: str) -> tuple[float, str, str]:
    def refuse(expected: str, got: object) -> InputError:
        return InputError(f"[sts] {path}: line {number} must {expected}, got {got}.")

    fields = line.split("\t")
    if len(fields) != 3:
        raise refuse("have 3 tab-separated fields", len(fields))
    try:
        score = float(fields[0])
    except ValueError as error:
        raise refuse("start with a number", repr(fields[0])) from error
    if not np.isfinite(score):
        raise refuse("have a finite score", fields[0])
    first, second = fields[1].strip(), fields[2].strip()
    if not first or not second:
        raise refuse("have two sentences", "an empty one")
    return score, first, second

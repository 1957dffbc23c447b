"""Retrieval by cosine: whether the right vector is among the nearest.

Similarities are computed in blocks of rows, so that memory stays bounded for any number
of sentences. Ties count against the model: a constant output finds nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from energyflow_mlx.data.distinct import number_distinct
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.evaluation._rows import checked_pair, checked_rows

_BLOCK_ELEMENTS = 1 << 24  # similarities held at once: 64 MiB


def precision_at(
    queries: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Share of queries whose own target is among the k nearest of all targets.

    Targets equal to a query's own one (a sentence that occurs twice) do not compete
    with it.

    Args:
        queries: Student vectors, ``[N, E]``.
        targets: Teacher vectors in the same order, ``[N, E]``.
        ks: Cut-offs, each at least 1.

    Returns:
        ``{k: precision in [0, 1]}``.
    """
    queries, targets = checked_pair("queries", queries, "targets", targets)
    same = number_distinct(row.tobytes() for row in targets)
    ranks = np.empty(len(queries), np.int64)
    for rows, similarity in _blocks(unit_rows(queries), unit_rows(targets)):
        own = similarity[np.arange(len(rows)), rows][:, None]
        better = similarity >= own
        better &= same[rows][:, None] != same[None, :]
        ranks[rows] = 1 + better.sum(axis=1)
    return _shares(ranks, ks)


@dataclass(frozen=True)
class Confusion:
    """A query that finds another's target before its own.

    Attributes:
        query: Its row.
        found: Row of the nearest target.
        own_cosine: Cosine with its own target.
        found_cosine: Cosine with the nearest one.
    """

    query: int
    found: int
    own_cosine: float
    found_cosine: float


def confusions(queries: np.ndarray, targets: np.ndarray) -> list[Confusion]:
    """Queries that do not find their own target first, the most mistaken ones first.

    They are those that miss P@1: see ``precision_at``.

    Args:
        queries: Student vectors, ``[N, E]``.
        targets: Teacher vectors in the same order, ``[N, E]``.
    """
    queries, targets = checked_pair("queries", queries, "targets", targets)
    same = number_distinct(row.tobytes() for row in targets)
    found = []
    for rows, similarity in _blocks(unit_rows(queries), unit_rows(targets)):
        own = similarity[np.arange(len(rows)), rows]
        similarity[same[rows][:, None] == same[None, :]] = -np.inf
        nearest = similarity.argmax(axis=1)
        best = similarity[np.arange(len(rows)), nearest]
        found += [
            Confusion(int(rows[i]), int(nearest[i]), float(own[i]), float(best[i]))
            for i in np.flatnonzero(best >= own)
        ]
    return sorted(found, key=lambda c: c.own_cosine - c.found_cosine)


def group_recall(
    vectors: np.ndarray,
    groups: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    gallery: np.ndarray | None = None,
) -> dict[int, float]:
    """Share of rows that find another row of their group among the k nearest others.

    For captions: does a caption lead to another caption of the same image? The row
    itself is never among its candidates.

    Args:
        vectors: Queries, ``[N, E]``.
        groups: Group of each row, ``[N]``; every group has two rows or more.
        ks: Cut-offs, each at least 1.
        gallery: Candidates in the same order, ``[N, E]``; by default ``vectors``.

    Returns:
        ``{k: recall in [0, 1]}``.
    """
    vectors = checked_rows("vectors", vectors)
    gallery = vectors if gallery is None else gallery
    vectors, gallery = checked_pair("vectors", vectors, "gallery", gallery)
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if group.shape != (len(vectors),) or sizes.min() < 2:
        raise ValueError(
            f"[group_recall] groups must be [{len(vectors)}] with two rows or more "
            f"each, got {list(group.shape)}, smallest of {sizes.min()}."
        )
    ranks = np.empty(len(vectors), np.int64)
    for rows, similarity in _blocks(unit_rows(vectors), unit_rows(gallery)):
        similarity[np.arange(len(rows)), rows] = -np.inf
        fellow = group[rows][:, None] == group[None, :]
        best = np.where(fellow, similarity, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = 1 + ((similarity >= best) & ~fellow).sum(axis=1)
    return _shares(ranks, ks)


def _blocks(
    queries: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield row numbers ``[n]`` and their similarities to all targets, ``[n, N]``."""
    step = max(1, _BLOCK_ELEMENTS // len(targets))
    for start in range(0, len(queries), step):
        rows = np.arange(start, min(start + step, len(queries)))
        yield rows, queries[rows] @ targets.T


def _shares(ranks: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    if not ks or min(ks) < 1:
        raise ValueError(f"[retrieval] ks must be at least 1, got {list(ks)}.")
    return {k: float(np.mean(ranks <= k)) for k in ks}

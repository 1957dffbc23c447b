"""Length buckets: full batches of a few fixed shapes, in an order any step can rebuild.

Sentences are padded to the shortest bucket that holds them, so the number of compiled
shapes stays small. What an epoch's batches are is a pure function of the lengths, the
sizes, the seed and the epoch's number; a run that restarts at batch g therefore gets
exactly the batches it would have got.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from energyflow_mlx.data.dataset import permutation

_PAD_ID = 0


class Batch(NamedTuple):
    """One batch of B sentences padded to L tokens, as NumPy arrays.

    Attributes:
        ids: Token ids, ``[B, L]`` int32.
        mask: 1 for tokens, 0 for padding, ``[B, L]`` float32.
        target: Teacher vectors, ``[B, E]`` float32.
    """

    ids: np.ndarray
    mask: np.ndarray
    target: np.ndarray


class TargetRows(NamedTuple):
    """The real next tokens of a batch, packed; padding has no row.

    The target of position ``t`` is token ``t + 1``, so a position is a place in
    ``[B, L - 1]``, flattened. NumPy arrays while it is prepared, then on the device.

    Attributes:
        position: Position of each target, ``[T]`` int32; 0 beyond the real ones.
        token: Token to be predicted there, ``[T]`` int32.
        count: 1 for real targets, 0 beyond them, ``[T]`` float32.
        place: Row of each position, ``[B * (L - 1)]`` int32; -1 where there is none.
    """

    position: Any
    token: Any
    count: Any
    place: Any


def target_rows(ids: np.ndarray, mask: np.ndarray, capacity: int) -> TargetRows:
    """Pack the targets of padded sentences.

    Args:
        ids: ``[B, L]``.
        mask: ``[B, L]``.
        capacity: Rows T; where more targets are real, T is all positions.
    """
    real = np.flatnonzero(mask[:, 1:].reshape(-1))
    positions = mask[:, 1:].size
    size = positions if len(real) > capacity else min(capacity, positions)
    position, token = np.zeros(size, np.int32), np.zeros(size, np.int32)
    position[: len(real)] = real
    token[: len(real)] = ids[:, 1:].reshape(-1)[real]
    place = np.full(positions, -1, np.int32)
    place[real] = np.arange(len(real))
    count = (np.arange(size) < len(real)).astype(np.float32)
    return TargetRows(position, token, count, place)


def target_capacities(
    lengths: np.ndarray, buckets: Sequence[int], batch_size: int
) -> dict[int, int]:
    """Rows that nearly always hold the targets of a batch, for each bucket.

    Four standard deviations above the mean of such batches, so that a bucket has one
    compiled shape, and a second, of all positions, about once in 30,000 batches.

    Args:
        lengths: Tokens of each sentence.
        buckets: Lengths to pad to, rising.
        batch_size: Sentences B of a batch.

    Returns:
        T by padded length, a multiple of 64 and at most ``B * (L - 1)``.
    """
    numbers = bucket_of(lengths, buckets)
    found = {}
    for number, bucket in enumerate(buckets):
        own = np.minimum(lengths[numbers == number], bucket) - 1.0
        all_positions = batch_size * (bucket - 1)
        if len(own) == 0:
            found[bucket] = all_positions
            continue
        expected = batch_size * own.mean() + 4.0 * np.sqrt(batch_size) * own.std()
        found[bucket] = min(all_positions, -(-int(expected) // 64) * 64)
    return found


class PackedIds:
    """Rows of token ids one after another in memory, to be padded many at a time."""

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        """Pack the rows, each ``[L_n]``."""
        self.lengths = np.array([len(row) for row in ids], np.int64)
        self._ends = np.cumsum(self.lengths)
        self._flat = np.concatenate([*ids, np.zeros(1, np.int32)]).astype(np.int32)

    def padded(
        self, rows: np.ndarray, length: int, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pad or cut some rows to one length; see ``pad_rows``."""
        size = len(rows) if batch_size is None else batch_size
        if length < 1 or size < len(rows):
            raise ValueError(
                f"[batching] rows must fit [B, L] = [{size}, {length}], "
                f"got {len(rows)}."
            )
        lengths, ends = self.lengths[rows, None], self._ends[rows, None]  # [N, 1]
        column = np.arange(length)
        is_token = np.zeros((size, length), bool)
        is_token[: len(rows)] = column < lengths
        places = ends - lengths + column
        is_cut = lengths[:, 0] > length
        places[is_cut, -1] = ends[is_cut, 0] - 1
        padded = np.full((size, length), _PAD_ID, np.int32)
        padded[is_token] = self._flat[places[is_token[: len(rows)]]]
        return padded, is_token.astype(np.float32)


def pad_rows(
    ids: Sequence[np.ndarray], length: int, batch_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pad or cut rows of token ids to one length.

    A row that is too long keeps its first ``length - 1`` ids and its last one, the
    end token.

    Args:
        ids: Rows of token ids.
        length: L, tokens of each padded row.
        batch_size: B, where it is more than the rows: the rest is all padding.

    Returns:
        Ids ``[B, L]`` int32 and mask ``[B, L]`` float32.

    Raises:
        ValueError: ``length`` is below 1, or there are more rows than ``batch_size``.
    """
    return PackedIds(ids).padded(np.arange(len(ids)), length, batch_size)


def bucket_of(lengths: np.ndarray, buckets: Sequence[int]) -> np.ndarray:
    """Number of the shortest bucket that holds each length; the last if none does.

    Args:
        lengths: ``[N]``.
        buckets: Lengths to pad to, rising.

    Returns:
        ``[N]`` int64.
    """
    return np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)


def lengths_that_pad_least(lengths: np.ndarray, most: int) -> list[int]:
    """Lengths to pad to that give the fewest tokens in all, found exactly.

    The dynamic program over "the last bucket ends at b" takes the cheapest
    predecessor a: cost(b) = min over a of cost(a) + b * (rows longer than a, up to b).
    It leaves out what batches add by moving left-over rows up.

    Args:
        lengths: Tokens of each row, ``[N]``, at least one row.
        most: Most lengths to choose; as many as there are different ones at most.

    Returns:
        The lengths, rising; the last is that of the longest row.
    """
    longest = int(lengths.max())
    up_to = np.cumsum(np.bincount(lengths, minlength=longest + 1))  # rows <= b
    ends = np.arange(longest + 1)
    between = up_to[None, :] - up_to[:, None]  # [a, b]: rows longer than a, up to b
    step = np.where(ends[:, None] < ends, between * ends, np.inf)
    cost, before = np.where(ends == 0, 0.0, np.inf), []
    for _ in range(min(most, len(np.unique(lengths)))):
        through = cost[:, None] + step
        before.append(through.argmin(axis=0))
        cost = through.min(axis=0)
    chosen, end = [], longest
    for predecessors in reversed(before):
        chosen.append(end)
        end = int(predecessors[end])
    return chosen[::-1]


def cover(
    ids: Sequence[np.ndarray], buckets: Sequence[int], batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Batches that hold every row once, in no order to rely on.

    Args:
        ids: Token ids of each sentence.
        buckets: Lengths to pad to, rising; the last takes all longer rows.
        batch_size: Most rows of a batch; only the last of a length may have fewer.

    Yields:
        Padded length and row numbers, ``[B]``.
    """
    numbers = bucket_of(np.array([len(row) for row in ids]), buckets)
    for number, bucket in enumerate(buckets):
        members = np.flatnonzero(numbers == number)
        for start in range(0, len(members), batch_size):
            yield bucket, members[start : start + batch_size]


class BucketBatcher:
    """Training batches over a set of sentences.

    Attributes:
        batches_per_epoch: ``N // batch_size``; the N mod batch_size sentences left
            over are others every epoch.
    """

    def __init__(
        self,
        ids: list[np.ndarray],
        targets: np.ndarray,
        *,
        vocab_size: int,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
    ) -> None:
        """Check everything once.

        Args:
            ids: Token ids of each sentence with start and end, without padding.
            targets: Their vectors, ``[N, E]`` float32.
            vocab_size: V; every id must be below it.
            batch_size: B, sentences of each batch.
            buckets: Lengths to pad to, rising; longer sentences are cut to the last.
            seed: Seed of the epochs' orders.

        Raises:
            ValueError: A shape, an id, a length or a value is out of range.
        """
        lengths = np.asarray([len(row) for row in ids], np.int64)
        _check(ids, lengths, targets, vocab_size, batch_size, tuple(buckets))
        self._ids, self._targets = PackedIds(ids), targets
        self._batch_size = batch_size
        self._buckets, self._seed = tuple(buckets), seed
        self._bucket_of = bucket_of(lengths, self._buckets)
        self.batches_per_epoch = len(ids) // batch_size

    def plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Batches of one epoch: bucket length and sample indices ``[B]``.

        All batches are full. Which sentences fall out (fewer than B) is drawn first,
        so a rare length is not the one that is always left out. What a bucket has
        left over moves up into the next longer one. The batches' order is drawn too.
        """
        size, count = self._batch_size, self.batches_per_epoch
        order = permutation(len(self._targets), self._seed, epoch, 0)[: count * size]
        batches: list[tuple[int, np.ndarray]] = []
        waiting = order[:0]
        for number, bucket in enumerate(self._buckets):
            members = order[self._bucket_of[order] == number]
            waiting = np.concatenate([waiting, members])
            full = len(waiting) - len(waiting) % size
            batches += [(bucket, row) for row in waiting[:full].reshape(-1, size)]
            waiting = waiting[full:]
        return [batches[i] for i in permutation(count, self._seed, epoch, 1)]

    def batch(self, bucket: int, indices: np.ndarray) -> Batch:
        """Padded arrays of the samples at ``indices`` in a bucket of that length."""
        ids, mask = self._ids.padded(indices, bucket)
        target = np.asarray(self._targets[indices], np.float32)
        return Batch(ids, mask, target)

    def batches(self, start: int) -> Iterator[tuple[int, Batch]]:
        """Endless batches with their global numbers.

        Args:
            start: Number of the first batch, counted over all epochs.

        Raises:
            ValueError: ``start`` is negative.
        """
        if start < 0:
            raise ValueError(f"[batching] start must be at least 0, got {start}.")
        return self._from(start)

    def _from(self, start: int) -> Iterator[tuple[int, Batch]]:
        number = start
        while True:
            epoch, first = divmod(number, self.batches_per_epoch)
            for bucket, indices in self.plan(epoch)[first:]:
                yield number, self.batch(bucket, indices)
                number += 1


def _check(
    ids: list[np.ndarray],
    lengths: np.ndarray,
    targets: np.ndarray,
    vocab_size: int,
    batch_size: int,
    buckets: tuple[int, ...],
) -> None:
    if targets.ndim != 2 or len(targets) != len(ids):
        raise ValueError(
            f"[batching] targets must be [N, E] with N = {len(ids)}, "
            f"got {list(targets.shape)}."
        )
    if not 1 <= batch_size <= len(ids):
        raise ValueError(
            f"[batching] batch_size must be 1..{len(ids)} (the sentences), "
            f"got {batch_size}."
        )
    if not buckets or min(buckets) < 2 or sorted(set(buckets)) != list(buckets):
        raise ValueError(
            f"[batching] buckets must rise from at least 2, got {list(buckets)}."
        )
    if lengths.min() < 1:
        raise ValueError(f"[batching] sentence {lengths.argmin()} has no tokens.")
    flat = np.concatenate(ids)
    if flat.min() < 0 or flat.max() >= vocab_size:
        bad = np.flatnonzero((flat < 0) | (flat >= vocab_size))[0]
        sentence = int(np.searchsorted(np.cumsum(lengths), bad, side="right"))
        raise ValueError(
            f"[batching] token ids must be 0..{vocab_size - 1}, got {flat[bad]} "
            f"in sentence {sentence}."
        )
    if not np.isfinite(targets).all():
        bad = int(np.flatnonzero(~np.isfinite(targets).all(axis=1))[0])
        raise ValueError(f"[batching] targets must be finite, row {bad} is not.")

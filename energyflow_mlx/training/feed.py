"""From prepared batches to updates on the device: micro-batches and token rows."""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import Batch, BucketBatcher
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.optimizer import Rows
from energyflow_mlx.training.step import Update


def shared_rows(
    batches: Sequence[Batch], vocab_size: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Token rows that several micro-batches touch together.

    Args:
        batches: Micro-batches of one update.
        vocab_size: Number of token ids V.

    Returns:
        Row numbers ``[U]``, their validity ``[U]`` and, per micro-batch, the place of
        every id in them, ``[B, L]``; U = min(sum of B*L, V), so that the shape
        depends on the batch shapes only.
    """
    capacity = min(sum(batch.ids.size for batch in batches), vocab_size)
    used = np.unique(np.concatenate([batch.ids.ravel() for batch in batches]))
    unused = np.ones(vocab_size, bool)
    unused[used] = False
    filler = np.flatnonzero(unused)[: capacity - len(used)]
    rows = np.concatenate([used, filler]).astype(np.int32)
    valid = (np.arange(capacity) < len(used)).astype(np.float32)
    places = [np.searchsorted(used, batch.ids).astype(np.int32) for batch in batches]
    return rows, valid, places


def to_update(
    batches: Sequence[Batch], vocab_size: int, lazy: frozenset[str]
) -> Update:
    """Move the micro-batches of one update to the device.

    Args:
        batches: Micro-batches.
        vocab_size: Number of token ids V.
        lazy: Paths of the token tables that enter as gathered rows.
    """
    if len(batches) == 1:
        (batch,) = batches
        rows, valid, places = batch.rows, batch.row_valid, [batch.row_of]
    else:
        rows, valid, places = shared_rows(batches, vocab_size)
    steps = []
    for batch, place in zip(batches, places, strict=True):
        tokens, row_of = mx.array(batch.ids), mx.array(place)
        steps.append(
            StepBatch(
                tokens=tokens,
                encoder_ids=row_of if "encoder.embedding.weight" in lazy else tokens,
                decoder_ids=row_of if "decoder.embedding.weight" in lazy else tokens,
                mask=mx.array(batch.mask),
                target=mx.array(batch.target),
            )
        )
    return Update(steps, Rows(mx.array(rows), mx.array(valid)))


def updates(
    batcher: BucketBatcher,
    start: int,
    accumulate: int,
    vocab_size: int,
    lazy: frozenset[str],
) -> Iterator[Update]:
    """Endless updates from update number ``start``, the same after a restart.

    Args:
        batcher: Source of micro-batches.
        start: Number of the first update.
        accumulate: Micro-batches per update.
        vocab_size: Number of token ids V.
        lazy: Paths of the token tables that enter as gathered rows.
    """
    group: list[Batch] = []
    for _, batch in batcher.iterate(start * accumulate):
        group.append(batch)
        if len(group) == accumulate:
            yield to_update(group, vocab_size, lazy)
            group = []

"""From prepared batches to updates on the device: micro-batches and token rows."""

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import Batch, BucketBatcher
from energyflow_mlx.evaluation.held_out import ValidationSet
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.optimizer import Rows
from energyflow_mlx.training.update import Update


@dataclass
class RunData:
    """Everything a run reads.

    Attributes:
        tokenizer: Of the student.
        train_ids: Token ids per training sentence.
        train_targets: The teacher's vectors, ``[N, E]`` float32; with pairs those
            of the pair's second sentence beside those of the first, ``[N, 2E]``.
        held_out: Validation sentences.
        word_embeddings: The teacher's word vectors of the student's tokens,
            ``[V, W]``, or none when its model is not at hand.
        dimension: Size E of the vectors.
        source: Where the sentences came from, for the run header.
        teacher: Name of the teacher, for the run header.
    """

    tokenizer: Tokenizer
    train_ids: list[np.ndarray]
    train_targets: np.ndarray
    held_out: ValidationSet
    word_embeddings: np.ndarray | None
    dimension: int
    source: str
    teacher: str


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into ``count`` equal parts that index into the same token rows.

    Sharing the rows lets the parts' table gradients ``[U, D]`` be added up.
    """
    size = len(batch.ids) // count
    cuts = [slice(start, start + size) for start in range(0, len(batch.ids), size)]
    return [
        batch._replace(
            ids=batch.ids[cut],
            mask=batch.mask[cut],
            target=batch.target[cut],
            row_of=batch.row_of[cut],
        )
        for cut in cuts
    ]


def candidate_rows(
    batch: Batch, shares: np.ndarray, count: int, seed: int, number: int
) -> tuple[Batch, np.ndarray]:
    """Let the rows of a batch be its tokens and uniformly drawn negatives.

    P(row j is a candidate) = p_j + (1 - p_j) * drawn / (V - occurring), with
    p_j = 1 - (1 - share_j)^T the chance that token j occurs among the batch's T.

    Args:
        batch: The update's sentences.
        shares: Share of each token in the training text, ``[V]``.
        count: Rows wanted; more, in steps of 1,024, where more tokens occur.
        seed: Of the draw.
        number: Of the update.

    Returns:
        The batch over the new rows, and the log of that probability, ``[U]``.
    """
    vocabulary = len(shares)
    occurring = batch.rows[batch.row_valid > 0]
    wanted = count
    while wanted < len(occurring):
        wanted += 1024
    capacity = min(wanted, vocabulary)
    absent = np.ones(vocabulary, bool)
    absent[occurring] = False
    others = np.flatnonzero(absent)
    drawn = capacity - len(occurring)
    random = np.random.Generator(np.random.PCG64([seed, number]))
    negatives = random.choice(others, drawn, replace=False)
    rows = np.concatenate([occurring, negatives]).astype(np.int32)
    occurs = 1.0 - np.exp(batch.mask.sum() * np.log1p(-shares[rows]))
    drawing = drawn / max(len(others), 1)
    log_p = np.log(occurs + (1.0 - occurs) * max(drawing, 1e-6))
    valid = (np.arange(capacity) < len(occurring)).astype(np.float32)
    new = batch._replace(rows=rows, row_valid=valid)  # row_of points at the first
    return new, log_p.astype(np.float32)


class Feed:
    """Turns prepared batches into updates.

    Args:
        batcher: Source of batches, one an update.
        accumulate: Micro-batches per update.
        lazy: Paths of the tables that enter as gathered rows.
        candidates: Size of the sampled softmax; 0 = the whole vocabulary.
        shares: Share of each token in the training text, ``[V]``.
        seed: Of the drawn negatives.
    """

    def __init__(
        self,
        batcher: BucketBatcher,
        *,
        accumulate: int,
        lazy: Collection[str],
        candidates: int,
        shares: np.ndarray,
        seed: int,
    ) -> None:
        self._batcher = batcher
        self._accumulate = accumulate
        self._candidates = candidates
        self._shares = shares
        self._seed = seed
        self._encoder_rows = "encoder.embedding.weight" in lazy
        self._decoder_rows = "decoder.embedding.weight" in lazy

    def updates(self, start: int, *, depth: int) -> Generator[Update]:
        """Endless updates from number ``start``, the same after a restart.

        Args:
            start: Number of the first update.
            depth: Batches prepared ahead on a thread.
        """
        with closing(self._batcher.iterate(start, depth=depth)) as batches:
            for number, batch in batches:
                yield self.update(batch, number)

    def update(self, batch: Batch, number: int) -> Update:
        """Move a batch to the device, cut into the micro-batches of one update."""
        log_p = np.zeros(1, np.float32)
        if self._candidates:
            batch, log_p = candidate_rows(
                batch, self._shares, self._candidates, self._seed, number
            )
        parts = micro_batches(batch, self._accumulate)
        rows = Rows(mx.array(batch.rows), mx.array(batch.row_valid), mx.array(log_p))
        return Update([self._on_device(part) for part in parts], rows)

    def _on_device(self, part: Batch) -> StepBatch:
        tokens, row_of = mx.array(part.ids), mx.array(part.row_of)
        return StepBatch(
            encoder_ids=row_of if self._encoder_rows else tokens,
            decoder_ids=row_of if self._decoder_rows else tokens,
            labels=row_of if self._candidates else tokens,
            mask=mx.array(part.mask),
            target=mx.array(part.target),
        )


def token_shares(rows: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """Share of each token among all tokens of the training text, ``[V]`` float64."""
    counts = np.bincount(np.concatenate(rows), minlength=vocab_size)
    return counts / counts.sum()

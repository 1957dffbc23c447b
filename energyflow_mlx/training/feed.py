"""From sentences to updates on the device: micro-batches and the rows they touch."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import (
    Batch,
    BucketBatcher,
    TargetRows,
    target_capacities,
    target_rows,
)
from energyflow_mlx.data.prefetch import prefetch
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.held_out import Embed, HeldOut
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.objectives.base import StepBatch
from energyflow_mlx.training.token_rows import (
    TokenRows,
    draw_candidates,
    gathering_pays,
    occurring_rows,
    token_shares,
    whole_rows,
)


@dataclass
class RunData:
    """Everything a run reads.

    Attributes:
        tokenizer: The student's tokenizer.
        train_ids: Token ids per training sentence.
        train_targets: The teacher's vectors, ``[N, E]`` float32; with pairs those
            of the pair's second sentence beside those of the first, ``[N, 2E]``.
        held_out: Validation sentences.
        word_embeddings: The teacher's word vectors of the student's tokens,
            ``[V, W]``, or none when its model is not at hand.
        dimension: Size E of the vectors.
        source: Where the sentences came from, for the run header.
        teacher: Name of the teacher, for the run header.
        embed: The teacher's vectors of texts; none where it cannot read.
    """

    tokenizer: Tokenizer
    train_ids: list[np.ndarray]
    train_targets: np.ndarray
    held_out: HeldOut
    word_embeddings: np.ndarray | None
    dimension: int
    source: str
    teacher: str
    embed: Embed | None


class Feed:
    """Turns a run's sentences into updates.

    Attributes:
        micro_batch: Sentences of a forward and backward: as configured, or as many as
            there are where that is fewer.
        batch_size: Sentences of one update, of all processes together.
        updates_per_epoch: Updates of one pass over the sentences.
    """

    def __init__(self, data: RunData, config: Config, group: Group = ALONE) -> None:
        """Plan the batches: ``accumulate`` micro-batches of every process.

        Args:
            data: Sentences and vectors.
            config: The run's configuration.
            group: The processes; each plans the same batches and takes its own part.

        Raises:
            InputError: There are fewer sentences than micro-batches in an update.
        """
        trainer, self._config, self._group = config.trainer, config, group
        parts, sentences = trainer.accumulate * group.size, len(data.train_ids)
        if sentences < parts:
            raise InputError(
                f"[data] training sentences must be at least {parts} = "
                f"trainer.accumulate * processes, got {sentences}."
            )
        self.micro_batch = min(trainer.micro_batch, sentences // parts)
        self.batch_size = self.micro_batch * parts
        self._vocab_size = data.tokenizer.vocab_size
        self._batcher = BucketBatcher(
            data.train_ids,
            data.train_targets,
            vocab_size=self._vocab_size,
            batch_size=self.batch_size,
            buckets=config.data.buckets,
            seed=config.seed,
        )
        self._shares = token_shares(data.train_ids, self._vocab_size)
        self._capacities = target_capacities(
            np.array([len(row) for row in data.train_ids]),
            config.data.buckets,
            self.micro_batch,
        )
        self.updates_per_epoch = self._batcher.batches_per_epoch

    def updates(self, start: int) -> Generator[list[StepBatch]]:
        """Endless updates from number ``start``, the same after a restart.

        The next ones are prepared on a thread.
        """
        depth = self._config.data.prefetch
        with closing(prefetch(self._prepared(start), depth)) as prepared:
            for batch, rows in prepared:
                yield self.on_device(batch, rows)

    def _prepared(self, start: int) -> Iterator[tuple[Batch, TokenRows]]:
        for number, batch in self._batcher.batches(start):
            yield batch, self.rows_of(batch, number)

    def rows_of(self, batch: Batch, number: int) -> TokenRows:
        """Rows of the token tables that update ``number`` touches, on the host."""
        count, seed = self._config.token_rows.candidates, self._config.seed
        if not count and not gathering_pays(batch.ids.size, self._vocab_size):
            return whole_rows(batch.ids, self._vocab_size)
        rows = occurring_rows(batch.ids, self._vocab_size)
        if not count:
            return rows
        total = batch.mask.sum()
        return draw_candidates(rows, self._shares, total, count, (seed, number))

    def on_device(self, batch: Batch, rows: TokenRows) -> list[StepBatch]:
        """Cut out this process's micro-batches, which share the rows of their update.

        Sharing lets the parts' table gradients ``[U, D]`` be added up, over
        micro-batches and over processes.
        """
        shared = TokenRows(*(None if a is None else mx.array(a) for a in rows))
        count = self._config.trainer.accumulate
        size = len(batch.ids) // (count * self._group.size)
        first = self._group.rank * count
        cuts = [slice(n * size, (n + 1) * size) for n in range(first, first + count)]
        return [
            StepBatch(
                ids=mx.array(batch.ids[cut]),
                mask=mx.array(batch.mask[cut]),
                target=mx.array(batch.target[cut]),
                rows=shared,
                targets=self._targets(batch, cut),
            )
            for cut in cuts
        ]

    def _targets(self, batch: Batch, cut: slice) -> TargetRows:
        """Pack the targets of one micro-batch, on the device."""
        ids, mask = batch.ids[cut], batch.mask[cut]
        capacity = self._capacities.get(ids.shape[1], mask.size)
        return TargetRows(*map(mx.array, target_rows(ids, mask, capacity)))

"""From sentences to updates on the device: micro-batches and the rows they touch."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config, chosen_objectives
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
from energyflow_mlx.evaluation.similarity import StsPairs
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.objectives.base import StepBatch
from energyflow_mlx.training.pairs import PairRows, PairUpdates
from energyflow_mlx.training.token_rows import (
    TokenRows,
    draw_candidates,
    gathering_pays,
    occurring_rows,
    token_shares,
    whole_rows,
)

Update = list[StepBatch]


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
        pairs: Pairs that some updates are made of; none = all are of sentences.
        sts: Sentence pairs that every validation measures; none = no such set.
        tokens_per_word: Of the training text; none where there is none.
        sampled_near: Numbers of the training sentences near whose vectors own pairs
            are sampled; none = all.
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
    sts: StsPairs | None = None
    pairs: PairRows | None = None
    tokens_per_word: float | None = None
    sampled_near: np.ndarray | None = None


class Feed:
    """Turns a run's sentences into updates.

    Attributes:
        micro_batch: Sentences of a forward and backward: as configured, or as many as
            there are where that is fewer.
        batch_size: Sentences of one update, of all processes together.
        updates_per_epoch: Updates of one pass over the sentences.
    """

    def __init__(
        self,
        data: RunData,
        config: Config,
        group: Group = ALONE,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Plan the batches: ``accumulate`` micro-batches of every process.

        Args:
            data: Sentences and vectors.
            config: The run's configuration.
            group: The processes; each plans the same batches and takes its own part.
            shares: Share of each objective, in their order; needed with pairs alone.

        Raises:
            InputError: There are fewer sentences than micro-batches in an update, or
                fewer pairs than one update takes.
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
        self._pairs: PairUpdates | None = None
        if data.pairs is not None:
            self._pairs = PairUpdates(
                data.pairs,
                config,
                shares or {},
                vocab_size=self._vocab_size,
                batch_size=self.batch_size,
            )

    def updates(self, start: int) -> Generator[Update]:
        """Endless updates from number ``start``, the same after a restart.

        The next ones are prepared and copied to the device on a thread.
        """
        depth = self._config.data.prefetch
        with closing(prefetch(self._prepared(start), depth)) as prepared:
            yield from prepared

    def batch_of(self, number: int) -> Batch:
        """The whole batch of an update, of all processes, on the host."""
        return next(self._batches(number))[1]

    def _batches(self, start: int) -> Iterator[tuple[int, Batch]]:
        batches = self._batcher.batches(start)
        return batches if self._pairs is None else self._pairs.put_into(batches, start)

    def _prepared(self, start: int) -> Iterator[Update]:
        for number, batch in self._batches(start):
            # Copied here too: it took 0.8 ms of the training thread with an H200.
            yield self.prepared(batch, number)

    def prepared(self, batch: Batch, number: int) -> Update:
        """Update ``number``, made of a batch: its micro-batches, on the device."""
        return on_device(self.micro_batches(batch, self.rows_of(batch, number)))

    def rows_of(self, batch: Batch, number: int) -> TokenRows:
        """Rows of the token tables that update ``number`` touches, on the host."""
        count, seed = self._config.token_rows.candidates, self._config.seed
        chosen = chosen_objectives(self._config.objectives).values()
        is_read = any(settings.reads_whole_tables for settings in chosen)
        pays = gathering_pays(batch.ids.size, self._vocab_size) and not is_read
        if not count and not pays:
            return whole_rows(batch.ids, self._vocab_size)
        rows = occurring_rows(batch.ids, self._vocab_size)
        if not count:
            return rows
        total = batch.mask.sum()
        return draw_candidates(rows, self._shares, total, count, (seed, number))

    def micro_batches(self, batch: Batch, rows: TokenRows) -> Update:
        """Cut out this process's micro-batches, which share the rows of their update.

        Sharing lets the parts' table gradients ``[U, D]`` be added up, over
        micro-batches and over processes. NumPy arrays: this is the host's part.
        """
        count = self._config.trainer.accumulate
        size = len(batch.ids) // (count * self._group.size)
        first = self._group.rank * count
        cuts = [slice(n * size, (n + 1) * size) for n in range(first, first + count)]
        return [
            StepBatch(
                ids=batch.ids[cut],
                mask=batch.mask[cut],
                target=batch.target[cut],
                rows=rows,
                targets=self._targets(batch, cut),
            )
            for cut in cuts
        ]

    def _targets(self, batch: Batch, cut: slice) -> TargetRows:
        """Pack the targets of one micro-batch."""
        ids, mask = batch.ids[cut], batch.mask[cut]
        return target_rows(ids, mask, self.room_for_targets(*ids.shape))

    def room_for_targets(self, size: int, length: int) -> int:
        """Targets that the usual shape of a padded micro-batch ``[B, L]`` holds."""
        return self._capacities.get(length, size * length)


def on_device(update: Update) -> list[StepBatch]:
    """Micro-batches of NumPy arrays as MLX's, their rows still shared."""
    rows = TokenRows(*(None if a is None else mx.array(a) for a in update[0].rows))
    found = []
    for part in update:
        assert part.targets is not None  # the feed packs them for every micro-batch
        found.append(
            StepBatch(
                ids=mx.array(part.ids),
                mask=mx.array(part.mask),
                target=mx.array(part.target),
                rows=rows,
                targets=TargetRows(*map(mx.array, part.targets)),
            )
        )
    return found

"""Which updates are made of pairs of sentences, and their batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.data.pairs import PairBatcher
from energyflow_mlx.errors import InputError
from energyflow_mlx.training.alternation import Alternation


@dataclass(frozen=True)
class PairRows:
    """Pairs as token ids.

    Attributes:
        objective: Name of the objective whose updates they make.
        first: Ids of the first sentences.
        second: Ids of the second ones.
    """

    objective: str
    first: list[np.ndarray]
    second: list[np.ndarray]


class PairUpdates:
    """Puts batches of pairs in the place of the sentences' batches.

    An update of the objective that takes pairs passes over the batch of sentences that
    another would have had at its number: the other updates stay as they are.
    """

    def __init__(
        self,
        rows: PairRows,
        config: Config,
        shares: Mapping[str, float],
        *,
        vocab_size: int,
        batch_size: int,
    ) -> None:
        """Plan the batches.

        Args:
            rows: The pairs.
            config: The run's configuration.
            shares: Share of each objective, in their order.
            vocab_size: Tokens of the vocabulary.
            batch_size: Sentences of an update; half as many are pairs.

        Raises:
            InputError: There are fewer pairs than one update takes.
        """
        if len(rows.first) < batch_size // 2:
            raise InputError(
                f"[data] objectives.{rows.objective}.file must hold the "
                f"{batch_size // 2} pairs of an update or more, got {len(rows.first)}."
            )
        self._name = rows.objective
        # Its own: batches are prepared on a thread, and an alternation grows as asked.
        self._alternation = Alternation(shares, config.seed)
        self._batcher = PairBatcher(
            rows.first,
            rows.second,
            vocab_size=vocab_size,
            batch_size=batch_size // 2,
            buckets=config.data.buckets,
            seed=config.seed,
        )

    def put_into(
        self, batches: Iterator[tuple[int, Batch]], start: int
    ) -> Iterator[tuple[int, Batch]]:
        """Numbered batches of sentences, with pairs where it is their turn.

        Args:
            batches: Of sentences, from update ``start`` on.
            start: Number of the first update.
        """
        own = self._batcher.batches(self._alternation.counts(start)[self._name])
        for number, batch in batches:
            takes = self._alternation.objective_of(number) == self._name
            yield number, next(own)[1] if takes else batch

"""An update on its way: built and started, its values not read yet."""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.data.batching import Batch
from energyflow_mlx.readback import Flight, Readback
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.training.objectives.base import StepBatch


class Submitted(NamedTuple):
    """An update that the device computes, or has computed.

    Attributes:
        step: Its number.
        objective: What it trains.
        lr: Its learning rate.
        flights: Its micro-batches; the last lands when the whole update is computed.
        report: Its values.
        parts: Batch and random key of each micro-batch, to look at where the update
            is not finite.
    """

    step: int
    objective: str
    lr: float
    flights: list[Flight]
    report: Readback
    parts: list[tuple[StepBatch, mx.array]]


class Contents(NamedTuple):
    """What an update was made of, on the host, to be told where it is not finite.

    Attributes:
        kind: In words.
        batch: Its sentences, of all processes.
        guess: Guesses at them that it learns from, NumPy arrays; none = it has none.
    """

    kind: str
    batch: Batch
    guess: Guess | None = None

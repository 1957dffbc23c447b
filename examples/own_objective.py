"""Train by a loss of your own: mean absolute difference from the teacher's vector.

    python examples/own_objective.py my.txt runs/absolute

The two classes are all that an objective is. In a file of your own they hold for the
processes that import it; a run folder trained with them is opened after that import.
"""

import sys
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    Config,
    DataConfig,
    ObjectiveConfig,
    RunConfig,
    TrainerConfig,
    objective_settings,
    objectives_type,
)
from energyflow_mlx.evaluation.held_out import HeldOut, vector_metrics
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives import Objective, Outcome
from energyflow_mlx.training.objectives.base import StepBatch


@objective_settings("absolute")
@dataclass
class AbsoluteConfig(ObjectiveConfig):
    """Settings of the objective: ``weight`` multiplies the loss."""

    weight: float = 100.0


class Absolute(Objective):
    """Bring every number of the encoder's vector near the teacher's.

    L = weight sum_b mean_i |y_bi - t_bi|
    """

    name = "absolute"
    measures = {"cosine": True, "mse": False, "p_at_1": True}
    parts = ("encoder", "shared")

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Summed loss of a micro-batch, and the number of its sentences."""
        y = model.encode(batch.ids, batch.mask, key=key).astype(mx.float32)  # [B, E]
        difference = mx.sum(mx.mean(mx.abs(y - batch.target), axis=-1))
        count = mx.array(float(len(y)))
        return Outcome(
            self.settings.weight * difference, count, {"difference": difference}
        )

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Closeness of the vectors of held-out sentences to the teacher's."""
        return vector_metrics(self.vectors(codec, held_out, engine), held_out.targets)

    def vectors(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> np.ndarray:
        """The encoder's vectors of held-out sentences, ``[N, E]``."""
        return codec.encode_ids(held_out.ids, batch_size=64, normalize=False)


def main(sentences: str, folder: str, *, epochs: int = 3) -> dict:
    """Train, and give what ``summary.json`` has.

    Args:
        sentences: Text file, a sentence a line.
        folder: Run folder; a run that is there is resumed.
        epochs: Passes over the sentences.
    """
    config = Config(
        objectives=objectives_type()(
            distillation=None,
            reconstruction=None,
            absolute=AbsoluteConfig(lr=3e-3),
        ),
        share="none",
        data=DataConfig(train=sentences, buckets=[]),
        trainer=TrainerConfig(epochs=epochs),
        run=RunConfig(folder),
    )
    return run(config)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/own_objective.py SENTENCES.txt RUN")
    main(*sys.argv[1:])

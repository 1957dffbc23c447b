"""What a run measures at every validation, beside what it trains: STS, vectors' range.

The metrics of the objectives come from ``evaluation.held_out``; the ones here belong to
the encoder, whichever objective trains it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.evaluation.held_out import validate
from energyflow_mlx.evaluation.similarity import sts_scores
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.update import Stepper

# Sentences whose vectors are described: their numbers are tens of thousands.
_DESCRIBED = 128


def measures_of(objectives: Iterable[Objective], config: Config) -> dict[str, bool]:
    """Metrics that may choose the best checkpoint, and whether higher is better."""
    found = {name: up for o in objectives for name, up in o.measures.items()}
    return found | ({"sts": True} if config.trainer.sts else {})


@dataclass(frozen=True)
class Validation:
    """Measures a model while it is trained.

    Attributes:
        objectives: What is trained, by name.
        codec: The model.
        data: Held-out sentences, and the STS set where there is one.
        stepper: Trains it; has the averaged weights, where the run keeps any.
    """

    objectives: Mapping[str, Objective]
    codec: SentenceCodec
    data: RunData
    stepper: Stepper

    def metrics(self) -> dict[str, float]:
        """Metrics of every objective on the first held-out sentences, and STS."""
        held_out = self.data.held_out.first(self.codec.config.data.val_limit)
        chosen, engine = self.objectives.values(), self.stepper.engine
        with self.kept_weights():
            return validate(self.codec, chosen, held_out, engine) | self.sts()

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Context in which the model, in evaluation mode, has the weights to keep."""
        self.codec.model.eval()
        with self.stepper.averaged():
            yield
        self.codec.model.train()

    def sts(self) -> dict[str, float]:
        """Spearman x 100 on the run's STS set, for shortened vectors too, if any."""
        pairs = self.data.sts
        if pairs is None:
            return {}
        sizes = {size for o in self.objectives.values() for size in o.sizes}
        first, second = self.codec.encode(pairs.first), self.codec.encode(pairs.second)
        return sts_scores("sts", first, second, pairs.scores, sizes)

    def vectors(self) -> dict[str, float]:
        """Range, mean and standard deviation of the encoder's numbers, as they are.

        Over the vectors of the first held-out sentences, before they are scaled to unit
        length; nothing where no encoder is trained.
        """
        ids = self.data.held_out.ids[:_DESCRIBED]
        if "encoder" not in self.codec.model:
            return {}
        with self.kept_weights():
            return describe_vectors(self.codec.encode_ids(ids, normalize=False))


def describe_vectors(vectors: np.ndarray) -> dict[str, float]:
    """Least, greatest, mean and standard deviation of all numbers of ``[N, E]``."""
    wide = vectors.astype(np.float64)
    return {
        "vector_min": float(wide.min()),
        "vector_max": float(wide.max()),
        "vector_mean": float(wide.mean()),
        "vector_std": float(wide.std()),
    }

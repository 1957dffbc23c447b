"""Distillation (mode A): the student's vector against the teacher's."""

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import DistillationConfig
from energyflow_mlx.config.checks import require
from energyflow_mlx.config.objectives import VectorDistanceConfig
from energyflow_mlx.evaluation.held_out import (
    HeldOut,
    shortened_metrics,
    vector_metrics,
)
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import cosine, similarity_kl, similarity_mse, unit_rows
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import Objective, Outcome, StepBatch

# Validation metrics of vectors, and whether higher is better.
VECTOR_MEASURES = {"cosine": True, "mse": False, "p_at_1": True}


class Distillation(Objective):
    """Train the encoder to give the teacher's vector.

    L = sum_b distance(y_b, t_b) + ws S_b(y) + sum_d wd S_b(y[:d])

    S_b compares the cosines between sentence b and the others of the micro-batch with
    the teacher's; see ``nn.losses``. y[:d] are the first d numbers of the vectors.
    Their goal are the cosines of the teacher's *whole* vectors: those of the teacher's
    first d numbers are an arbitrary part, because its numbers have no order.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, section
    3, with the distillation of similarities as the loss of each size.
    """

    name = "distillation"
    measures = VECTOR_MEASURES
    settings: DistillationConfig

    @property
    def parts(self) -> tuple[str, ...]:
        """The encoder, with the blocks it shares."""
        return ("encoder", "shared")

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """The student's vectors, ``[B, E]``."""
        return model.encode(batch.ids, batch.mask, key=key)

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Distance of the student's vectors to the teacher's."""
        y = self.forward(model, batch, key).astype(mx.float32)
        found = vector_distance(y, batch.target, self.settings)
        terms = {"similarity_loss": (y.shape[1], self.settings.similarity_weight)}
        sizes = self.settings.weight_of_size().items()
        terms |= {f"similarity_{size}_loss": (size, weight) for size, weight in sizes}
        real = mx.max(batch.mask, axis=1)  # [B]
        for name, (size, weight) in terms.items():
            if weight > 0:
                term = self._similarity(y[:, :size], batch.target, real)
                found = Outcome(
                    found.loss + weight * term,
                    found.count,
                    {**found.metrics, name: term},
                )
        return found

    def _similarity(self, y: mx.array, target: mx.array, real: mx.array) -> mx.array:
        """Sum of S_b over the micro-batch, scalar."""
        if self.settings.similarity_kind == "mse":
            return mx.sum(similarity_mse(y, target, real))
        temperature = self.settings.similarity_temperature
        return mx.sum(similarity_kl(y, target, real, temperature))

    def require_dimension(self, dimension: int) -> None:
        """Refuse a shortened size that is not shorter than the vectors."""
        sizes = list(self.settings.matryoshka)
        require(
            all(size < dimension for size in sizes),
            f"{self.settings.key}.matryoshka",
            f"below the {dimension} numbers of the teacher's vectors",
            sizes,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of a shortened vector that mean something by themselves."""
        return tuple(self.settings.matryoshka)

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Closeness of the vectors, and how well they find their own target."""
        vectors = self.vectors(codec, held_out, engine)
        found = vector_metrics(vectors, held_out.targets)
        return found | shortened_metrics(vectors, held_out.targets, self.sizes)

    def vectors(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> np.ndarray:
        """The encoder's vectors of the sentences."""
        return codec.encode_ids(held_out.ids, batch_size=64, normalize=False)


def vector_distance(
    y: mx.array, target: mx.array, weights: VectorDistanceConfig
) -> Outcome:
    """Summed distance of vectors to their targets.

    L = sum_b wc (1 - cos(y_b, t_b)) + wm mean_i (y_bi - t_bi)^2 + wx X_b

    X_b is the in-batch contrastive term, the cross entropy of picking t_b among the
    targets of the micro-batch, which are those of one process, by cosine over the
    temperature (van den Oord et al., 2018).

    Args:
        y: ``[B, E]`` float32.
        target: ``[B, E]`` float32.
        weights: Weights of the terms.
    """
    cos = cosine(y, target)  # [B]
    mse = mx.mean(mx.square(y - target), axis=-1)  # [B]
    total = mx.sum(weights.cosine * (1 - cos) + weights.mse * mse)
    if weights.contrastive > 0:
        scores = unit_rows(y) @ unit_rows(target).T / weights.temperature  # [B, B]
        picked = mx.sum(mx.logsumexp(scores, axis=-1) - mx.diag(scores))
        total = total + weights.contrastive * picked
    count = mx.array(float(y.shape[0]))
    return Outcome(total, count, {"cosine": mx.sum(cos), "mse": mx.sum(mse)})

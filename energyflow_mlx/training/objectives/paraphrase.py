"""Paraphrase: the two sentences of a pair get vectors near each other's."""

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.config.checks import require
from energyflow_mlx.config.objectives import ParaphraseConfig
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import unit_rows
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import Objective, Outcome, StepBatch


class Paraphrase(Objective):
    """Train the encoder on pairs of sentences, without a teacher.

    L = sum_i (X(a_i, b) + X(b_i, a)) / 2

    X(a_i, b) is the cross entropy of picking b_i among the b of the micro-batch by
    cosine over the temperature. A sentence that is the same as one of pair i is left
    out of the others: it would be right, and counted wrong.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018, section 2.3 (InfoNCE), in both directions as in Radford et al.,
    "Learning Transferable Visual Models From Natural Language Supervision", 2021,
    figure 3.
    """

    name = "paraphrase"
    settings: ParaphraseConfig

    def __init__(self, settings: ParaphraseConfig, config: Config) -> None:
        """Create the objective.

        Raises:
            InputError: It has no file, or a micro-batch cannot hold whole pairs.
        """
        super().__init__(settings, config)
        require(bool(settings.file), f"{settings.key}.file", "a file of pairs", None)
        rows = config.trainer.micro_batch
        expected = f"even, because {self.name} takes rows two by two"
        require(rows % 2 == 0, "trainer.micro_batch", expected, rows)

    @property
    def parts(self) -> tuple[str, ...]:
        """The encoder, with the blocks it shares."""
        return ("encoder", "shared")

    @property
    def pair_file(self) -> str | None:
        """The pairs that its updates are made of."""
        return self.settings.file

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """The student's vectors, ``[B, E]``."""
        return model.encode(batch.ids, batch.mask, key=key)

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Cross entropy of finding each sentence's pair, in both directions."""
        y = unit_rows(self.forward(model, batch, key).astype(mx.float32))
        scores = y[0::2] @ y[1::2].T / self.settings.temperature  # [P, P]
        barred_b, barred_a = _same_sentences(batch.ids)
        own = mx.diag(scores)
        forth = mx.logsumexp(scores + barred_b, axis=1) - own
        back = mx.logsumexp(scores.T + barred_a, axis=1) - own
        count = mx.array(float(scores.shape[0]))
        found = mx.sum(mx.argmax(scores + barred_b, axis=1) == mx.arange(len(own)))
        metrics = {"pair_p_at_1": found.astype(mx.float32)}
        return Outcome(mx.sum(forth + back) / 2, count, metrics)

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Nothing of its own: ``trainer.sts`` says how it does."""
        return {}


def _same_sentences(ids: mx.array) -> tuple[mx.array, mx.array]:
    """What bars candidates that are one of the pair's own sentences, ``[P, P]`` twice.

    -1e9 in row i and column j where the second (and the first) sentence of pair j is a
    sentence of pair i, 0 elsewhere and on the diagonal.

    Args:
        ids: Token ids of pairs, ``[2P, L]``.
    """
    same = mx.all(ids[:, None] == ids[None, :], axis=-1)  # [2P, 2P]
    of_pair = same[0::2] | same[1::2]  # [P, 2P]: is a sentence of pair i
    others = 1.0 - mx.eye(len(of_pair))
    return of_pair[:, 1::2] * others * -1e9, of_pair[:, 0::2] * others * -1e9

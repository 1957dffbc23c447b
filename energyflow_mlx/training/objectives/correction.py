"""Correction: the sentence from the teacher's vector and a guess at it."""

import mlx.core as mx

from energyflow_mlx.config import Config, CorrectionConfig
from energyflow_mlx.config.checks import require
from energyflow_mlx.evaluation.held_out import HeldOut, ReadBack
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import Objective, Outcome, StepBatch
from energyflow_mlx.training.objectives.reconstruction import sentence_loss


class Correction(Objective):
    """Train decoder and corrector to mend what the decoder itself got wrong.

    L = sum over real targets of -log p(token_{t+1} | token_{<=t}, t, guess, g)

    t is the sentence's vector, and g that of a guess which the decoder made at the
    sentence a while ago; see ``training.guesses``.

    Source: Morris et al., "Text Embeddings Reveal (Almost) As Much As Text", 2023,
    section 3.
    """

    name = "correction"
    settings: CorrectionConfig

    def __init__(self, settings: CorrectionConfig, config: Config) -> None:
        """Create the objective.

        Raises:
            InputError: The decoder is to have no corrector, or nothing gives the
                guesses' vectors.
        """
        super().__init__(settings, config)
        expected = f"true, because {settings.key} trains it"
        require(config.decoder.corrector, "decoder.corrector", expected, False)
        is_there = (
            settings.embedder == "student" or config.teacher.kind != "precomputed"
        )
        expected = "student, because teacher=precomputed reads no text"
        require(is_there, f"{settings.key}.embedder", expected, settings.embedder)
        has_pairs = settings.own == 0 or config.data.own_pairs.share > 0
        expected = "0, because data.own_pairs.share=0 makes no own pairs"
        require(has_pairs, f"{settings.key}.own", expected, settings.own)

    @property
    def parts(self) -> tuple[str, ...]:
        """The decoder and what reads guesses for it."""
        return ("corrector", "decoder", "shared")

    @property
    def guessing(self) -> CorrectionConfig:
        """How its guesses are made."""
        return self.settings

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """What the logits are computed from, ``[B, L-1, D]``."""
        ids, mask = batch.ids[:, :-1], batch.mask[:, :-1]
        return model.decode_features(
            ids, mask, batch.target, guess=batch.guess, key=key
        )

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Cross entropy of the sentences given their vectors and the guesses."""
        smoothing = self.settings.label_smoothing
        total, count = sentence_loss(model, batch, batch.target, key, smoothing)
        return Outcome(total, count, {"correction_ce": total})

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Nothing: what corrections are worth is measured on decoded sentences."""
        return {}

    def read_back(self, codec: SentenceCodec, held_out: HeldOut) -> list[ReadBack]:
        """The sentences as the decoder writes them after one correction."""
        texts = codec.decode(
            held_out.targets, corrections=1, embedder=self.settings.embedder
        )
        return [ReadBack("_corrected", texts, held_out)]

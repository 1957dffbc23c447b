"""Reconstruction (mode B): the sentence from the teacher's vector."""

import mlx.core as mx

from energyflow_mlx.config import ReconstructionConfig
from energyflow_mlx.config.checks import require
from energyflow_mlx.evaluation.held_out import HeldOut, ReadBack, mean_cross_entropy
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import unit_rows
from energyflow_mlx.ops import linear_cross_entropy, pack_rows
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runs.record import Record
from energyflow_mlx.training.objectives.base import (
    Objective,
    Outcome,
    StepBatch,
    add_noise,
)
from energyflow_mlx.training.objectives.cycle import cycle_cosine
from energyflow_mlx.training.token_rows import candidate_softmax


class Reconstruction(Objective):
    """Train the decoder to write the sentence of a vector, under teacher forcing.

    L = sum over real targets of -log p(token_{t+1} | token_{<=t}, z)

    An optional term decodes from the student's own vector and pulls it towards the
    teacher's through the decoder. Another one has the encoder read what was written;
    see ``cycle``.
    """

    name = "reconstruction"
    measures = {"ce": False}
    takes_own_pairs = True
    settings: ReconstructionConfig

    @property
    def parts(self) -> tuple[str, ...]:
        """The decoder, and the encoder where its own vectors are decoded."""
        own = ("encoder",) if self.settings.student_ce > 0 else ()
        return ("decoder", *own, "shared")

    @property
    def uses(self) -> tuple[str, ...]:
        """What it trains, and the encoder where it reads what was written."""
        reader = ("encoder",) if self.settings.cycle > 0 else ()
        return (*self.parts, *reader)

    def require_trained(self, record: Record) -> None:
        """Refuse to let an encoder read that nothing trains."""
        settings = self.settings
        require(
            settings.cycle == 0 or record.has_trained("encoder"),
            f"{settings.key}.cycle",
            "0, because no objective trains an encoder and init takes none over",
            settings.cycle,
        )

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """What the logits are computed from, ``[B, L-1, D]``."""
        ids, mask = batch.ids[:, :-1], batch.mask[:, :-1]
        return model.decode_features(ids, mask, batch.target, key=key)

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Cross entropy of the batch's sentences given their vectors."""
        settings = self.settings
        noise_key, decoder_key, encoder_key, own_key = mx.random.split(key, 4)
        z = batch.target
        if settings.latent_noise > 0:
            z = add_noise(z, settings.latent_noise, noise_key)
        smoothing = settings.label_smoothing
        h = target_features(model, batch, z, decoder_key)
        total, count = cross_entropy(model, batch, h, smoothing)
        metrics = {"ce": total}
        if settings.student_ce > 0:
            own = model.encode(batch.ids, batch.mask, key=encoder_key)
            own = unit_rows(own.astype(mx.float32))
            student, _ = sentence_loss(model, batch, own, own_key, smoothing)
            metrics["student_ce"] = student
            total = total + settings.student_ce * student
        if settings.cycle > 0:
            tokens = mx.sum(batch.mask[:, 1:], axis=1)  # [B], as the count has them
            found = tokens * cycle_cosine(model, batch, h, encoder_key)
            metrics["cycle_cosine"] = mx.sum(found)
            total = total + settings.cycle * mx.sum(tokens - found)
        return Outcome(total, count, metrics)

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Cross entropy of the next token, over the whole vocabulary."""
        return {"ce": mean_cross_entropy(codec, held_out, engine)}

    def read_back(self, codec: SentenceCodec, held_out: HeldOut) -> list[ReadBack]:
        """The sentences as the decoder writes them from the teacher's vectors."""
        return [ReadBack("", codec.decode(held_out.targets), held_out)]


def sentence_loss(
    model: EnergyFlow, batch: StepBatch, z: mx.array, key: mx.array, smoothing: float
) -> tuple[mx.array, mx.array]:
    """Summed cross entropy of the batch's sentences given ``z``, and its count.

    Arguments as in ``target_features`` and ``cross_entropy``.
    """
    h = target_features(model, batch, z, key)
    return cross_entropy(model, batch, h, smoothing)


def target_features(
    model: EnergyFlow, batch: StepBatch, z: mx.array, key: mx.array
) -> mx.array:
    """What the real targets are predicted from, packed, ``[T, D]``.

    The target of position t is token t + 1; the last position has none and is dropped,
    and padding is never a target.

    Args:
        model: Model with a decoder.
        batch: The sentences, and guesses at them, if any.
        z: Vectors they are decoded from, ``[B, E]``.
        key: Random key of the dropouts.
    """
    ids, mask, rows = batch.ids, batch.mask, batch.targets
    assert rows is not None, "who writes text packs its targets"
    features = model.decode_features(
        ids[:, :-1], mask[:, :-1], z, guess=batch.guess, key=key
    )
    flat = features.reshape(-1, features.shape[-1])  # [B * (L-1), D]
    return pack_rows(flat, rows.position, rows.place)


def cross_entropy(
    model: EnergyFlow, batch: StepBatch, h: mx.array, smoothing: float
) -> tuple[mx.array, mx.array]:
    """Summed cross entropy of the real targets, and their count.

    Args:
        model: Model with a decoder.
        batch: The sentences.
        h: What the targets are predicted from, ``[T, D]``.
        smoothing: Label smoothing.
    """
    rows = batch.targets
    assert rows is not None, "who writes text packs its targets"
    target, lowered = candidate_softmax(batch.rows, rows.token)
    weight, bias = model.decoder.output_layer()  # of V tokens, or of U candidates
    total = linear_cross_entropy(
        *(h, weight, bias, target, rows.count),
        lowered=lowered,
        label_smoothing=smoothing,
    )
    return total, mx.sum(rows.count)

"""The two objectives with one signature: distillation and reconstruction.

Each returns the *sum* of its loss over what it averages over (sentences or real
target tokens) and that count, so that gradients of N micro-batches add up to the
gradient of one big batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import LossConfig
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import cosine, sequence_cross_entropy
from energyflow_mlx.training.alternation import DISTILLATION, RECONSTRUCTION
from energyflow_mlx.training.optimizer import Rows


class StepBatch(NamedTuple):
    """One micro-batch on the device.

    Attributes:
        encoder_ids: Indices into the encoder's token table: the ids, or row
            numbers where the table is gathered, ``[B, L]`` int32.
        decoder_ids: The same for the decoder's table.
        labels: Classes of the decoder's softmax: the ids, or row numbers where it
            runs over candidates, ``[B, L]`` int32.
        mask: 1 for real tokens, ``[B, L]``.
        target: The teacher's vectors, ``[B, E]`` float32.
    """

    encoder_ids: mx.array
    decoder_ids: mx.array
    labels: mx.array
    mask: mx.array
    target: mx.array


class Outcome(NamedTuple):
    """What an objective gives.

    Attributes:
        loss: Sum of the loss, scalar float32.
        count: What the sum is divided by: sentences or real target tokens.
        metrics: Sums of the same kind, reported as means.
    """

    loss: mx.array
    count: mx.array
    metrics: dict[str, mx.array]


Objective = Callable[[EnergyFlow, StepBatch, Rows, LossConfig, mx.array], Outcome]


def distillation(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    loss: LossConfig,
    key: mx.array,
) -> Outcome:
    """Mode A: the student's vector against the teacher's.

    L = sum_b wc (1 - cos(y_b, t_b)) + wm mean_i (y_bi - t_bi)^2 + wx X_b

    X_b is the in-batch contrastive term, the cross entropy of picking t_b among the
    batch's targets by cosine over the temperature (van den Oord et al., 2018).
    """
    y = model.encode(batch.encoder_ids, batch.mask, key=key).astype(
        mx.float32
    )  # [B, E]
    cos = cosine(y, batch.target)  # [B]
    mse = mx.mean(mx.square(y - batch.target), axis=-1)  # [B]
    total = mx.sum(loss.cosine * (1 - cos) + loss.mse * mse)
    if loss.contrastive > 0:
        total = total + loss.contrastive * _contrastive(y, batch.target, loss)
    count = mx.array(float(y.shape[0]))
    return Outcome(total, count, {"cosine": mx.sum(cos), "mse": mx.sum(mse)})


def _unit(x: mx.array) -> mx.array:
    """Rows of ``x`` at length 1; the floor keeps a zero row's gradient finite."""
    return x * mx.rsqrt(mx.maximum(mx.sum(x * x, axis=-1, keepdims=True), 1e-12))


def _contrastive(y: mx.array, target: mx.array, loss: LossConfig) -> mx.array:
    """Sum over the batch of -log softmax_j(cos(y_b, t_j) / T) at j = b."""
    scores = _unit(y) @ _unit(target).T / loss.temperature  # [B, B]
    return mx.sum(mx.logsumexp(scores, axis=-1) - mx.diag(scores))


def reconstruction(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    loss: LossConfig,
    key: mx.array,
) -> Outcome:
    """Mode B: the sentence from the teacher's vector, under teacher forcing.

    L = sum over real targets of -log p(token_{t+1} | token_{<=t}, z)

    The target of position t is token t + 1; the last position has none and is
    dropped, and padding is never a target. Optional terms decode from the student's
    own vector and pull it towards the teacher's through the decoder.
    """
    noise_key, decoder_key, encoder_key, own_key = mx.random.split(key, 4)
    z = batch.target
    if loss.latent_noise > 0:
        noise = mx.random.normal(z.shape, key=noise_key)
        z = z + noise * (loss.latent_noise / z.shape[-1] ** 0.5)
    total, count = _sentence_loss(model, batch, rows, z, loss, decoder_key)
    metrics = {"ce": total}
    if loss.student_ce > 0:
        own = model.encode(batch.encoder_ids, batch.mask, key=encoder_key)
        own = _unit(own.astype(mx.float32))
        student, _ = _sentence_loss(model, batch, rows, own, loss, own_key)
        metrics["student_ce"] = student
        total = total + loss.student_ce * student
    return Outcome(total, count, metrics)


def _sentence_loss(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    z: mx.array,
    loss: LossConfig,
    key: mx.array,
) -> tuple[mx.array, mx.array]:
    """Summed cross entropy of the batch's sentences given ``z``, and its count.

    With candidates the softmax runs over the update's rows only, each logit lowered
    by the log probability of the row being a candidate, which makes the sampled
    partition function unbiased (Jean et al., "On Using Very Large Target Vocabulary
    for Neural Machine Translation", 2015, section 3).
    """
    mask = batch.mask
    features = model.decode_features(
        batch.decoder_ids[:, :-1], mask[:, :-1], z.astype(mask.dtype), key=key
    )
    logits = model.decoder.logits(features)  # [B, L-1, V]
    if loss.candidates:
        logits = logits - rows.log_p.astype(logits.dtype)
    return sequence_cross_entropy(
        logits,
        batch.labels[:, 1:],
        mask[:, 1:],
        label_smoothing=loss.label_smoothing,
    )


OBJECTIVES: dict[str, Objective] = {
    DISTILLATION: distillation,
    RECONSTRUCTION: reconstruction,
}


def touched_parts(objective: str, loss: LossConfig) -> tuple[str, ...]:
    """Top-level parts of the model that an objective's gradient reaches."""
    if objective == DISTILLATION:
        return ("encoder", "shared")
    if loss.student_ce > 0:
        return ("decoder", "encoder", "shared")
    return ("decoder", "shared")

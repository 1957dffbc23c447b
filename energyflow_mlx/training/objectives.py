"""The objectives: distillation and reconstruction, and the two ends of the flows.

Each returns the *sum* of its loss over what it averages over (sentences or real
target tokens) and that count, so that gradients of N micro-batches add up to the
gradient of one big batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import LossConfig
from energyflow_mlx.lattice import LatticeOutput
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import cosine, sequence_cross_entropy
from energyflow_mlx.training.alternation import (
    DISTILLATION,
    FLOW,
    FLOW_TEXT,
    RECONSTRUCTION,
)
from energyflow_mlx.training.optimizer import Rows

Arrays = dict[str, mx.array]


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


class Gradients(NamedTuple):
    """Summed gradients, loss, count and metric sums of micro-batches so far."""

    gradients: Arrays
    loss: mx.array
    count: mx.array
    metrics: Arrays


class Controls(NamedTuple):
    """What changes from update to update beside the batch.

    Attributes:
        key: Random key of the update.
        displacement_scale: Factor on the lattice's learned moves, scalar.
        noise_sigma: Standard deviation of the lattice's exploration noise, scalar.
    """

    key: mx.array
    displacement_scale: mx.array
    noise_sigma: mx.array


Objective = Callable[[EnergyFlow, StepBatch, Rows, LossConfig, Controls], Outcome]


def distillation(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    loss: LossConfig,
    controls: Controls,
) -> Outcome:
    """Mode A: the student's vector against the teacher's.

    L = sum_b wc (1 - cos(y_b, t_b)) + wm mean_i (y_bi - t_bi)^2 + wx X_b

    X_b is the in-batch contrastive term, the cross entropy of picking t_b among the
    batch's targets by cosine over the temperature (van den Oord et al., 2018).
    """
    y = model.encode(batch.encoder_ids, batch.mask, key=controls.key)
    y = y.astype(mx.float32)  # [B, E]
    return _distance(y, batch.target, loss)


def _distance(y: mx.array, target: mx.array, loss: LossConfig) -> Outcome:
    """Distillation's loss of vectors ``y`` against ``target``, both ``[B, E]``."""
    cos = cosine(y, target)  # [B]
    mse = mx.mean(mx.square(y - target), axis=-1)  # [B]
    total = mx.sum(loss.cosine * (1 - cos) + loss.mse * mse)
    if loss.contrastive > 0:
        total = total + loss.contrastive * _contrastive(y, target, loss)
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
    controls: Controls,
) -> Outcome:
    """Mode B: the sentence from the teacher's vector, under teacher forcing.

    L = sum over real targets of -log p(token_{t+1} | token_{<=t}, z)

    The target of position t is token t + 1; the last position has none and is
    dropped, and padding is never a target. Optional terms decode from the student's
    own vector and pull it towards the teacher's through the decoder.
    """
    noise_key, decoder_key, encoder_key, own_key = mx.random.split(controls.key, 4)
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


class FlowObjective(NamedTuple):
    """A flow objective in two pieces, with the lattice between them.

    Attributes:
        surface: Model, batch and key to the surface ``[B, H, W]`` that launches.
        outcome: Model, batch, rows, weights, key and what the lattice gave to the
            outcome.
        front: Prefixes of the parameters that ``surface`` uses.
        back: Prefixes of the parameters that ``outcome`` and the collector use.
    """

    surface: Callable[[EnergyFlow, StepBatch, mx.array], mx.array]
    outcome: Callable[
        [EnergyFlow, StepBatch, Rows, LossConfig, mx.array, LatticeOutput], Outcome
    ]
    front: tuple[str, ...]
    back: tuple[str, ...]


def flow_keys(key: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Keys of a flow objective's surface, lattice and outcome."""
    front, lattice, end = mx.random.split(key, 3)
    return front, lattice, end


def through_lattice(ends: FlowObjective) -> Objective:
    """Join the two pieces by the model's lattice."""

    def objective(
        model: EnergyFlow,
        batch: StepBatch,
        rows: Rows,
        loss: LossConfig,
        controls: Controls,
    ) -> Outcome:
        front_key, lattice_key, end_key = flow_keys(controls.key)
        is_noisy = model.lattice.config.noise.sigma > 0
        output = model.lattice.from_surface(
            ends.surface(model, batch, front_key),
            key=lattice_key,
            displacement_scale=controls.displacement_scale,
            noise_sigma=controls.noise_sigma if is_noisy else 0.0,
        )
        return ends.outcome(model, batch, rows, loss, end_key, output)

    return objective


def _flow_outcome(
    model: EnergyFlow, output: LatticeOutput, target: mx.array, loss: LossConfig
) -> Outcome:
    """Distance of the lattice's vector to the target, with the flows' statistics."""
    found = _distance(output.vector.astype(mx.float32), target, loss)
    total, rows = found.loss, found.count
    if loss.surface > 0:
        image = mx.stop_gradient(model.lattice.mapper(target))
        square = mx.square(output.surface_out - image.reshape(output.surface_out.shape))
        total = total + loss.surface * rows * mx.mean(square)
    reported = ("reached", "covered", "path", "sideways")
    statistics = {f"flow_{k}": output.statistics[k] * rows for k in reported}
    return Outcome(total, rows, found.metrics | statistics)


def _surface_of_vector(model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
    """Lay the source vector out.

    With pairs the first half of ``batch.target`` is the target and the second half
    the source, ``[B, 2E]``; otherwise both are one vector.
    """
    width = model.lattice.embedding_dim
    return model.lattice.mapper(batch.target[:, -width:], key=key)


def _vector_outcome(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    loss: LossConfig,
    key: mx.array,
    output: LatticeOutput,
) -> Outcome:
    """The vector that came out of the lattice, against the target vector."""
    target = batch.target[:, : model.lattice.embedding_dim]
    return _flow_outcome(model, output, target, loss)


def _surface_of_text(model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
    """Encode the sentence onto the surface."""
    return model.encode_surface(batch.encoder_ids, batch.mask, key=key)


def _text_outcome(
    model: EnergyFlow,
    batch: StepBatch,
    rows: Rows,
    loss: LossConfig,
    key: mx.array,
    output: LatticeOutput,
) -> Outcome:
    """The vector that came out, against the teacher's, and the text from it.

    L = distance(vector, teacher's vector) + text * CE(text | unit vector)

    The cross entropy is scaled to the mean over tokens times the sentences, so that
    its weight does not depend on the length of the sentences.
    """
    found = _flow_outcome(model, output, batch.target, loss)
    vector = _unit(output.vector.astype(mx.float32))
    ce, tokens = _sentence_loss(model, batch, rows, vector, loss, key)
    mean = ce / mx.maximum(tokens, 1.0) * found.count
    total = found.loss + loss.text * mean
    return Outcome(total, found.count, found.metrics | {"own_ce": mean})


FLOW_OBJECTIVES: dict[str, FlowObjective] = {
    FLOW: FlowObjective(
        _surface_of_vector, _vector_outcome, ("lattice.mapper",), ("lattice.collector",)
    ),
    FLOW_TEXT: FlowObjective(
        _surface_of_text,
        _text_outcome,
        ("encoder", "shared"),
        ("lattice.collector", "decoder", "shared"),
    ),
}
OBJECTIVES: dict[str, Objective] = {
    DISTILLATION: distillation,
    RECONSTRUCTION: reconstruction,
    **{name: through_lattice(ends) for name, ends in FLOW_OBJECTIVES.items()},
}


def touched_parts(objective: str, loss: LossConfig) -> tuple[str, ...]:
    """Prefixes of the parameters that an objective's gradient reaches."""
    if objective == FLOW:
        return ("lattice",)
    if objective == FLOW_TEXT:
        parts = ("encoder", "shared", "lattice.flow", "lattice.collector")
        return (*parts, "decoder") if loss.text > 0 else parts
    if objective == DISTILLATION:
        return ("encoder", "shared")
    if loss.student_ce > 0:
        return ("decoder", "encoder", "shared")
    return ("decoder", "shared")


def under(parameters: Arrays, prefixes: tuple[str, ...]) -> Arrays:
    """Parameters whose path lies under one of the prefixes."""
    starts = tuple(f"{prefix}." for prefix in prefixes)
    return {path: a for path, a in parameters.items() if path.startswith(starts)}

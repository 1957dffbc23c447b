"""AdamW as pure functions over arrays: decoupled decay, bias correction.

A moment triple belongs to one parameter, whichever objective updates it, so a
block shared by encoder and decoder has one state (Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", 2019, algorithm 2).
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import OptimizerConfig

Arrays = dict[str, mx.array]
Moments = Arrays


def init_moments(parameter: mx.array) -> Moments:
    """Zero moments ``m`` and ``v`` of the parameter's shape and step count ``t``."""
    return {
        "m": mx.zeros(parameter.shape, mx.float32),
        "v": mx.zeros(parameter.shape, mx.float32),
        "t": mx.zeros((), mx.float32),
    }


class StepScalars(NamedTuple):
    """Scalars of one update, of all parameters that were updated equally often.

    Attributes:
        lr: Learning rate.
        t: Updates including this one.
        keep_m: Factor on the old first moment.
        keep_v: Factor on the old second moment.
        unbias_m: 1 / (1 - b1^t).
        unbias_v: 1 / (1 - b2^t).
    """

    lr: mx.array
    t: mx.array
    keep_m: mx.array
    keep_v: mx.array
    unbias_m: mx.array
    unbias_v: mx.array


def begin_step(
    t: mx.array, lr: mx.array, finite: mx.array, config: OptimizerConfig
) -> StepScalars:
    """Scalars of the update after ``t`` updates.

    Where the update is not finite they let parameters and moments stay as they are,
    provided that the gradient is set to 0: no choice between old and new arrays, which
    would be passes over all of them.

    Args:
        t: Updates so far, scalar float32.
        lr: Learning rate, scalar.
        finite: Whether the update counts, scalar bool.
        config: Betas.
    """
    b1, b2 = config.betas
    return StepScalars(
        lr=mx.where(finite, lr, 0.0),
        t=t + finite.astype(mx.float32),
        keep_m=mx.where(finite, b1, 1.0),
        keep_v=mx.where(finite, b2, 1.0),
        unbias_m=_bias_correction(b1, t + 1),
        unbias_v=_bias_correction(b2, t + 1),
    )


def adamw(
    parameter: mx.array,
    gradient: mx.array,
    moments: Moments,
    step: StepScalars,
    decay: float,
    config: OptimizerConfig,
) -> tuple[mx.array, Moments]:
    """One AdamW update of one parameter.

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    p = p - lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * p)

    Args:
        parameter: Any shape, float32.
        gradient: Same shape.
        moments: ``m``, ``v`` of the same shape and the scalar ``t``.
        step: Of ``begin_step``.
        decay: Decoupled weight decay; 0 for biases, norms and tables.
        config: Betas and eps.

    Returns:
        The new parameter and moments.
    """
    b1, b2 = config.betas
    m = step.keep_m * moments["m"] + (1 - b1) * gradient
    v = step.keep_v * moments["v"] + (1 - b2) * gradient * gradient
    scale = mx.sqrt(v * step.unbias_v) + config.eps
    change = m * step.unbias_m / scale + decay * parameter
    return parameter - step.lr * change, {"m": m, "v": v, "t": step.t}


def _bias_correction(beta: float, t: mx.array) -> mx.array:
    """1 / (1 - beta^t), scalar.

    The sum over one element keeps compilation from fusing the power into the update
    of every element, where it would be the dearest operation by far.
    """
    return mx.sum(1.0 / (1.0 - mx.power(beta, t.reshape(1))))


def global_norm(gradients: dict[str, mx.array]) -> mx.array:
    """Root of the sum of squares over all gradients, scalar float32."""
    squares = [mx.sum(mx.square(g.astype(mx.float32))) for g in gradients.values()]
    return mx.sqrt(sum(squares, mx.zeros(())))


def clip_scale(norm: mx.array, bound: float) -> mx.array:
    """Factor that brings a gradient of this norm within ``bound`` (0 = no bound)."""
    if bound <= 0:
        return mx.ones(())
    return mx.minimum(1.0, bound / mx.maximum(norm, 1e-6))


def decays(path: str, parameter: mx.array) -> bool:
    """Whether weight decay applies: matrices yes; biases, norms and tables no."""
    undecayed = ("embedding", "positions", "norm")
    return parameter.ndim >= 2 and not any(word in path for word in undecayed)

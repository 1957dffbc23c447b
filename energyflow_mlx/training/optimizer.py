"""AdamW as pure functions over arrays: decoupled decay, bias correction.

A moment triple belongs to one parameter, whichever objective updates it, so a
block shared by encoder and decoder has one state (Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", 2019, algorithm 2).
"""

from collections.abc import Sequence

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


def adamw(
    parameter: mx.array,
    gradient: mx.array,
    moments: Moments,
    lr: mx.array,
    decay: float | mx.array,
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
        lr: Learning rate, scalar.
        decay: Decoupled weight decay, for all or for each number; 0 for biases, norms
            and tables.
        config: Betas and eps.

    Returns:
        The new parameter and moments.
    """
    b1, b2 = config.betas
    t = moments["t"] + 1
    first, second = _bias_corrections(config.betas, t)
    m = b1 * moments["m"] + (1 - b1) * gradient
    v = b2 * moments["v"] + (1 - b2) * gradient * gradient
    step = m * first
    scale = mx.sqrt(v * second) + config.eps
    new = parameter - lr * (step / scale + decay * parameter)
    return new, {"m": m, "v": v, "t": t}


def _bias_corrections(betas: Sequence[float], t: mx.array) -> tuple[mx.array, mx.array]:
    """1 / (1 - beta^t) of both betas, scalars.

    The sum over one element keeps compilation from fusing the power into the update
    of every element, where it would be the dearest operation by far.
    """
    power = mx.power(mx.array([[b] for b in betas]), t.reshape(1, 1))  # [2, 1]
    first, second = mx.split(mx.sum(1.0 / (1.0 - power), axis=1), 2)
    return first.reshape(()), second.reshape(())


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

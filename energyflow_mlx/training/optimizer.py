"""Moments of the parameters, clipping, and which parameters decay.

A moment triple belongs to one parameter, whichever objective updates it, so a
block shared by encoder and decoder has one state. ``ops.adamw`` has the update itself.
"""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import OptimizerConfig
from energyflow_mlx.ops.adamw import Adamw, Constants

Arrays = dict[str, mx.array]
Moments = Arrays


def init_moments(parameter: mx.array) -> Moments:
    """Zero moments ``m`` and ``v`` of the parameter's shape and step count ``t``."""
    return {
        "m": mx.zeros(parameter.shape, mx.float32),
        "v": mx.zeros(parameter.shape, mx.float32),
        "t": mx.zeros((), mx.float32),
    }


def constants(config: OptimizerConfig, decay: float | mx.array = 0.0) -> Constants:
    """What holds for a parameter in every update; tables do not decay."""
    b1, b2 = config.betas
    return Constants((b1, b2), config.eps, decay)


def stepped(state: Adamw) -> tuple[mx.array, Moments]:
    """Parameter and moments, as they are kept apart."""
    return state.p, {"m": state.m, "v": state.v, "t": state.t}


def clip_scale(norm: mx.array, bound: float) -> mx.array:
    """Factor that brings a gradient of this norm within ``bound`` (0 = no bound)."""
    if bound <= 0:
        return mx.ones(())
    return mx.minimum(1.0, bound / mx.maximum(norm, 1e-6))


def decays(path: str, parameter: mx.array) -> bool:
    """Whether weight decay applies: matrices yes; biases, norms and tables no."""
    undecayed = ("embedding", "positions", "norm")
    return parameter.ndim >= 2 and not any(word in path for word in undecayed)


def decay_of(paths: Iterable[str], parameters: Arrays, rate: float) -> float | mx.array:
    """Weight decay of parameters in one vector: one number, or one for each of its.

    Args:
        paths: Those parameters, in the order of the vector.
        parameters: By path.
        rate: Of what decays.
    """
    each = {p: rate if decays(p, parameters[p]) else 0.0 for p in paths}
    if len(set(each.values())) == 1:
        return next(iter(each.values()))
    numbers = [np.full(parameters[p].size, v, np.float32) for p, v in each.items()]
    return mx.array(np.concatenate(numbers))

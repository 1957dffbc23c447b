"""Moments of the parameters, clipping, which rule steps which parameter, and its decay.

Moments belong to one parameter, whichever objective updates it, so a block shared by
encoder and decoder has one state. ``ops.adamw`` and ``muon`` have the updates
themselves.
"""

import math
from collections.abc import Hashable, Mapping
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import OptimizerConfig
from energyflow_mlx.ops.adamw import Adamw, Constants, Rates, adamw
from energyflow_mlx.training.muon import Muon, muon

Arrays = dict[str, mx.array]
Moments = Arrays

COUNT = "t"
_TEXT = ("encoder.", "decoder.", "shared.")
_OUTPUT = "decoder.output."


class Rule(Protocol):
    """How the parameters of a pack are stepped."""

    def step(
        self, parameters: mx.array, moments: Moments, gradients: mx.array, rates: Rates
    ) -> tuple[mx.array, Moments]:
        """Parameters and moments after an update.

        Args:
            parameters: Of the pack, in its form.
            moments: Theirs, in the same form, and the count.
            gradients: Theirs.
            rates: Of the update.
        """


class AdamwRule(NamedTuple):
    """AdamW, number by number."""

    constants: Constants

    def step(
        self, parameters: mx.array, moments: Moments, gradients: mx.array, rates: Rates
    ) -> tuple[mx.array, Moments]:
        """See ``Rule``."""
        state = Adamw(parameters, **moments)
        return stepped(adamw(state, gradients, rates, self.constants))


class MuonRule(NamedTuple):
    """Muon, matrix by matrix; a convolution's taps and inputs are one axis.

    Attributes:
        rows: First axis of each matrix.
        columns: Product of the others.
        momentum: Decay rate of its momentum.
        decay: Weight decay.
    """

    rows: int
    columns: int
    momentum: float
    decay: float

    def step(
        self, parameters: mx.array, moments: Moments, gradients: mx.array, rates: Rates
    ) -> tuple[mx.array, Moments]:
        """See ``Rule``."""
        shape = parameters.shape
        p, m, g = (
            a.reshape(-1, self.rows, self.columns)
            for a in (parameters, moments["m"], gradients)
        )
        state = Muon(p, m, moments[COUNT])
        p, m, t = muon(state, g, rates, self.momentum, self.decay)
        return p.reshape(shape), {"m": m.reshape(shape), COUNT: t}


def rule_of(shapes: Mapping[str, tuple[int, ...]], config: OptimizerConfig) -> Rule:
    """The rule of parameters that lie together; they all have the same.

    Args:
        shapes: By path, in the order in which they lie.
        config: Of the run.
    """
    path, shape = next(iter(shapes.items()))
    rate = config.weight_decay
    if group_of(path, shape, config) is None:
        return AdamwRule(constants(config, decay_of(shapes, rate)))
    decay = rate if decays(path, shape) else 0.0
    return MuonRule(shape[0], math.prod(shape[1:]), config.momentum, decay)


def group_of(path: str, shape: tuple[int, ...], config: OptimizerConfig) -> Hashable:
    """What parameters that Muon steps at once share: their shape; none for AdamW.

    Muon steps the matrices inside the text networks. Token tables and the output
    matrix have a row for each token, of which a sentence has few; the lattice was not
    trained with it.
    """
    if config.kind != "muon" or len(shape) < 2 or not path.startswith(_TEXT):
        return None
    if is_table(path) or path.startswith(_OUTPUT):
        return None
    matrix = (shape[0], math.prod(shape[1:]))
    return shape if min(matrix) > 1 else None


def init_moments(path: str, parameter: mx.array, config: OptimizerConfig) -> Moments:
    """Zero moments of the parameter's shape, and step count ``t``.

    ``m`` and ``v`` for AdamW, ``m`` for Muon.
    """
    names = "m" if group_of(path, parameter.shape, config) else "mv"
    moments = {name: mx.zeros(parameter.shape, mx.float32) for name in names}
    return moments | {COUNT: mx.zeros((), mx.float32)}


def constants(config: OptimizerConfig, decay: float | mx.array = 0.0) -> Constants:
    """What holds for a parameter in every update of AdamW; tables do not decay."""
    b1, b2 = config.betas
    return Constants((b1, b2), config.eps, decay)


def stepped(state: Adamw) -> tuple[mx.array, Moments]:
    """Parameter and moments, as they are kept apart."""
    return state.p, {"m": state.m, "v": state.v, COUNT: state.t}


def clip_scale(norm: mx.array, bound: float) -> mx.array:
    """Factor that brings a gradient of this norm within ``bound`` (0 = no bound)."""
    if bound <= 0:
        return mx.ones(())
    return mx.minimum(1.0, bound / mx.maximum(norm, 1e-6))


def is_table(path: str) -> bool:
    """Whether a parameter has a row for each token or place, or belongs to such."""
    return "embedding" in path or "positions" in path


def decays(path: str, shape: tuple[int, ...]) -> bool:
    """Whether weight decay applies: matrices yes; biases, norms and tables no."""
    return len(shape) >= 2 and not is_table(path) and "norm" not in path


def decay_of(shapes: Mapping[str, tuple[int, ...]], rate: float) -> float | mx.array:
    """Weight decay of parameters in one vector: one number, or one for each of its.

    Args:
        shapes: By path, in the order of the vector.
        rate: Of what decays.
    """
    each = {p: rate if decays(p, shape) else 0.0 for p, shape in shapes.items()}
    if len(set(each.values())) == 1:
        return next(iter(each.values()))
    numbers = [np.full(math.prod(shapes[p]), v, np.float32) for p, v in each.items()]
    return mx.array(np.concatenate(numbers))

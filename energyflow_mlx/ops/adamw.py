"""AdamW of one parameter, of some rows of a table, and the norm of all gradients.

    m = b1 m + (1 - b1) f g
    v = b2 v + (1 - b2) (f g)^2
    t = t + 1
    p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

``f`` is one factor of all gradients: clipping and the division by what the loss was
summed over. Where ``moves`` is false nothing changes, ``t`` included.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm
2. A kernel takes one pass over memory, and writes over parameter and moments where
nobody else holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, resolve
from energyflow_mlx.runtime import native

# Outputs p, m, v and t over the inputs of the same name.
_REUSE_WHOLE = ((0, 0), (1, 2), (2, 3), (3, 4))
_REUSE_ROWS = ((0, 0), (1, 1), (2, 2), (3, 4))


class Adamw(NamedTuple):
    """What AdamW keeps of a parameter; float32.

    Attributes:
        p: The parameter, any shape.
        m: First moment, same shape.
        v: Second moment, same shape.
        t: Updates so far, scalar.
    """

    p: mx.array
    m: mx.array
    v: mx.array
    t: mx.array


class Rates(NamedTuple):
    """What one update does to every parameter; scalars on the device.

    Attributes:
        factor: Factor of the gradients, float32.
        lr: Learning rate, float32.
        moves: Whether anything changes, bool.
    """

    factor: mx.array
    lr: mx.array
    moves: mx.array


class Constants(NamedTuple):
    """Numbers that hold for a run.

    Attributes:
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        decay: Decoupled weight decay.
    """

    betas: tuple[float, float]
    eps: float
    decay: float = 0.0


def gradient_norm(
    gradients: Sequence[mx.array], *, backend: Backend = "auto"
) -> mx.array:
    """Root of the sum of squares over all arrays, scalar float32; 0 for none."""
    if not gradients or resolve(backend, "adamw") == "reference":
        return gradient_norm_reference(gradients)
    wide = [g.astype(mx.float32) for g in gradients]
    sizes = [len(wide), *(g.size for g in wide)]
    return native.launch("gradient_norm", wide, [((), mx.float32)], sizes)[0]


def gradient_norm_reference(gradients: Sequence[mx.array]) -> mx.array:
    """Plain MLX form of ``gradient_norm``; the specification of the other."""
    squares = [mx.sum(mx.square(g.astype(mx.float32))) for g in gradients]
    return mx.sqrt(sum(squares, mx.zeros(())))


def adamw(
    state: Adamw,
    gradient: mx.array,
    rates: Rates,
    constants: Constants,
    *,
    backend: Backend = "auto",
) -> Adamw:
    """One update of a parameter.

    Args:
        state: Parameter, moments, count.
        gradient: Of the parameter's shape; taken as float32.
        rates: Of this update.
        constants: Of the run.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        The new state.

    Raises:
        ValueError: The shapes differ.
    """
    shapes = [list(x.shape) for x in (state.p, gradient, state.m, state.v)]
    if shapes.count(shapes[0]) != len(shapes):
        raise ValueError(f"[adamw] p, g, m and v must have one shape, got {shapes}.")
    gradient = gradient.astype(mx.float32)
    if resolve(backend, "adamw") == "reference":
        return adamw_reference(state, gradient, rates, constants)
    p, m, v, t = state
    reals = [*constants.betas, constants.eps, constants.decay]
    inputs = [p, gradient, m, v, t, *rates]
    outputs = [(x.shape, mx.float32) for x in state]
    return Adamw(
        *native.launch("adamw_update", inputs, outputs, [p.size], reals, _REUSE_WHOLE)
    )


def adamw_reference(
    state: Adamw, gradient: mx.array, rates: Rates, constants: Constants
) -> Adamw:
    """Plain MLX form of ``adamw``; the specification of the others."""
    (b1, b2), eps, decay = constants
    p, m, v, t = state
    gradient = gradient * rates.factor
    t = t + 1
    m = b1 * m + (1 - b1) * gradient
    v = b2 * v + (1 - b2) * gradient * gradient
    step = m * _bias_correction(b1, t)
    scale = mx.sqrt(v * _bias_correction(b2, t)) + eps
    new = p - rates.lr * (step / scale + decay * p)
    return Adamw(
        *(
            mx.where(rates.moves, after, before)
            for after, before in zip((new, m, v, t), state, strict=True)
        )
    )


def _bias_correction(beta: float, t: mx.array) -> mx.array:
    """1 / (1 - beta^t), scalar.

    The sum over one element keeps compilation from fusing the power into the update
    of every element, where it would be the dearest operation by far.
    """
    return mx.sum(1.0 / (1.0 - mx.power(beta, t.reshape(1))))


def adamw_rows(
    state: Adamw,
    gradient: mx.array,
    rows: mx.array,
    wanted: mx.array,
    rates: Rates,
    constants: Constants,
    *,
    backend: Backend = "auto",
) -> Adamw:
    """AdamW on some rows of a table; the other rows do not move.

    The count is the table's, not the row's, as in "sparse" Adam variants. Tables have
    no weight decay.

    Args:
        state: Table and moments ``[V, D]`` or ``[V]``, count.
        gradient: Gradient of the rows, ``[U, D]`` or ``[U]``; taken as float32.
        rows: Their numbers, ``[U]`` int32, all different, in ``[0, V)``; not checked.
        wanted: 0 where a row is left alone all the same, 1 elsewhere, ``[U]`` float32.
        rates: Of this update.
        constants: Of the run.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        The new state.

    Raises:
        ValueError: Shapes do not fit.
    """
    p, m, v, t = state
    expected = (*rows.shape, *p.shape[1:])
    if gradient.shape != expected or rows.shape != wanted.shape or rows.ndim != 1:
        raise ValueError(
            f"[adamw_rows] gradient must be [U, ...] = {list(expected)} with rows and "
            f"wanted [U], got {list(gradient.shape)} and {list(wanted.shape)}."
        )
    gradient = gradient.astype(mx.float32)
    if resolve(backend, "adamw") == "reference":
        return adamw_rows_reference(state, gradient, rows, wanted, rates, constants)
    inputs = [p, m, v, gradient, t, *rates, rows.astype(mx.int32), wanted]
    outputs = [(x.shape, mx.float32) for x in state]
    sizes = [p.shape[0], p.size // max(p.shape[0], 1), rows.size]
    reals = [*constants.betas, constants.eps]
    return Adamw(
        *native.launch("adamw_rows", inputs, outputs, sizes, reals, _REUSE_ROWS)
    )


def adamw_rows_reference(
    state: Adamw,
    gradient: mx.array,
    rows: mx.array,
    wanted: mx.array,
    rates: Rates,
    constants: Constants,
) -> Adamw:
    """Plain MLX form of ``adamw_rows``; the specification of the others."""
    p, m, v, t = state
    part = Adamw(p[rows], m[rows], v[rows], t)
    after = adamw_reference(part, gradient, rates, constants._replace(decay=0.0))
    moved = (wanted > 0).reshape(-1, *[1] * (p.ndim - 1))

    def write(whole: mx.array, new: mx.array, old: mx.array) -> mx.array:
        # Added and not set: a row is changed in place of the table.
        return whole.at[rows].add(mx.where(moved, new - old, 0.0))

    changed = map(write, state[:3], after[:3], part[:3])
    return Adamw(*changed, after.t)

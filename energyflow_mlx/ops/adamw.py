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

import math
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
    """What holds for a parameter in every update.

    Attributes:
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        decay: Decoupled weight decay; an array has one for each number, and the
            reference alone takes it.
    """

    betas: tuple[float, float]
    eps: float
    decay: float | mx.array = 0.0


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
    if isinstance(constants.decay, mx.array):
        raise TypeError("[adamw] decay must be a number in the native form.")
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
    return _updated(state, gradient, rates, rates.moves, constants)


def _updated(
    state: Adamw,
    gradient: mx.array,
    rates: Rates,
    moves: mx.array,
    constants: Constants,
) -> Adamw:
    """One update where ``moves``, a scalar or a column ``[V, 1]``.

    Whatever holds for many numbers is computed once, as a factor that is 0 or 1 where
    nothing moves. The rest is short enough to be compiled into one kernel, which
    writes parameter and moments over their old values: longer expressions are cut
    where they are eleven operations deep, with all that crosses the cut in memory.
    """
    (b1, b2), eps, decay = constants
    p, m, v, t = state
    # Not finite where nothing moves, perhaps: no product with zero may see it.
    gradient = mx.where(moves, gradient, 0.0) * mx.where(rates.moves, rates.factor, 0.0)
    lr = mx.where(moves, rates.lr, 0.0)
    first, second = (-1.0 / mx.expm1((t + 1) * _log(b)) for b in (b1, b2))
    m = mx.where(moves, b1, 1.0) * m + (1 - b1) * gradient
    v = mx.where(moves, b2, 1.0) * v + (1 - b2) * gradient * gradient
    p = (1.0 - lr * decay) * p - (lr * first) * (m / (mx.sqrt(v * second) + eps))
    return Adamw(p, m, v, t + rates.moves)


def _log(beta: float) -> float:
    """Logarithm of a decay rate, which may be 0."""
    return math.log(beta) if beta else -math.inf


def adamw_rows(
    state: Adamw,
    gradient: mx.array,
    rows: mx.array | None,
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
            None: all rows in order, U = V.
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
    count = p.shape[0] if rows is None else rows.size
    expected = (count, *p.shape[1:])
    if gradient.shape != expected or wanted.shape != (count,):
        raise ValueError(
            f"[adamw_rows] gradient and wanted must be {list(expected)} and [{count}], "
            f"got {list(gradient.shape)} and {list(wanted.shape)}."
        )
    gradient = gradient.astype(mx.float32)
    if resolve(backend, "adamw") == "reference":
        return adamw_rows_reference(state, gradient, rows, wanted, rates, constants)
    inputs = [p, m, v, gradient, t, *rates, wanted]
    inputs += [] if rows is None else [rows.astype(mx.int32)]
    outputs = [(x.shape, mx.float32) for x in state]
    sizes = [p.shape[0], p.size // max(p.shape[0], 1), count, rows is not None]
    reals = [*constants.betas, constants.eps]
    return Adamw(
        *native.launch("adamw_rows", inputs, outputs, sizes, reals, _REUSE_ROWS)
    )


def adamw_rows_reference(
    state: Adamw,
    gradient: mx.array,
    rows: mx.array | None,
    wanted: mx.array,
    rates: Rates,
    constants: Constants,
) -> Adamw:
    """Plain MLX form of ``adamw_rows``; the specification of the others."""
    moves = rates.moves & (wanted > 0).reshape(-1, *[1] * (state.p.ndim - 1))
    constants = constants._replace(decay=0.0)
    if rows is None:
        return _updated(state, gradient, rates, moves, constants)
    part = Adamw(state.p[rows], state.m[rows], state.v[rows], state.t)
    after = _updated(part, gradient, rates, moves, constants)
    # The rows are distinct: they are put in place, and nothing is added to them.
    places = mx.broadcast_to(rows.reshape(-1, *[1] * (state.p.ndim - 1)), part.p.shape)
    p, m, v = (
        mx.put_along_axis(table, places, new, axis=0)
        for table, new in zip(state[:3], after[:3], strict=True)
    )
    return Adamw(p, m, v, after.t)

"""New hidden state of a GRU from the sums of its gates, with a gradient of its own.

The plain form is written for the CPU, where MLX spends 17-21 ns on a built-in tanh or
sigmoid and vectorises short fused loops only: a rational tanh, loops ended by hand.
The kernels use the tanh and exponential of the hardware, and read and write every
array once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import mlx.core as mx

from energyflow_mlx.ops._backend import (
    FLOAT_DTYPES,
    Backend,
    KernelSpec,
    features_per_lane,
    launch,
    resolve,
)
from energyflow_mlx.ops.even_columns import even_columns

# Of the three gates r, z, n: ``[N, 3H]`` side by side, or three of ``[N, H]``.
Gates: TypeAlias = mx.array | tuple[mx.array, ...]

_INPUTS = ("h", "from_x", "from_h", "b", "bhn")
FORWARD = KernelSpec(
    name="gru_blend_forward",
    inputs=_INPUTS,
    outputs=("blended",),
    folder="gru_blend",
    part="forward",
)
BACKWARD = KernelSpec(
    name="gru_blend_backward",
    inputs=("g", *_INPUTS),
    outputs=("d_h", "d_x", "d_y", "partial"),
    folder="gru_blend",
    part="backward",
)

_WARPS = 4  # simdgroups or warps a group
_ROWS = 32  # rows a group

# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 7.9, where tanh is 1 to float32: iteratively
# reweighted least squares on Chebyshev nodes, absolute error 4e-7 in float32.
_TANH_LIMIT = 7.9
_TANH_P = (
    0.9999999735940515,
    0.13444456507914979,
    0.0035717015871526967,
    2.1903505911915795e-05,
    1.5259801526400204e-08,
)
_TANH_Q = (
    1.0,
    0.4677777869799196,
    0.0261644342987796,
    0.0003411752051120514,
    8.530597578930195e-07,
)


def gate_products(x: mx.array, weights: mx.array) -> Gates:
    """Products of ``x`` with the weights of three gates, laid out for ``gru_blend``.

    A GPU gets one product, whose gradients are one product each; the loops of the
    CPU need every gate contiguous.

    Args:
        x: ``[..., D]``.
        weights: Rows of the gates r, z, n, ``[3H, D]``, dtype of ``x``.

    Returns:
        ``[..., 3H]`` where ``gru_blend`` has a kernel, else three ``[..., H]``.
    """
    backend = resolve("auto", "gru_blend")
    if backend == "reference":
        return tuple(x @ gate.T for gate in mx.split(weights, 3))
    x, weights = even_columns(x), even_columns(weights)
    if backend == "cuda" and x.dtype == mx.float32:
        return product_of_rows(x, weights)
    return x @ weights.T


@mx.custom_function
def product_of_rows(x: mx.array, weights: mx.array) -> mx.array:
    """``x @ weights.T`` of ``[..., D]`` and ``[M, D]``, for float32 on tensor cores.

    They read float32 factors along the summed axis only, so the gradient of ``x`` is
    taken with a transposed copy of the weights; compiled, one copy serves all steps.
    """
    return x @ weights.T


@product_of_rows.vjp
def _product_of_rows_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, mx.array]:
    x, weights = primals
    rows = cotangent.reshape(-1, weights.shape[0])
    d_weights = rows.T @ x.reshape(-1, x.shape[-1])
    return cotangent @ mx.contiguous(weights.T).T, d_weights


def gru_blend(
    h: mx.array,
    from_x: Gates,
    from_h: Gates,
    b: mx.array,
    bhn: mx.array,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """New hidden state from the gates' sums.

    ``n + z * (h - n)`` with ``r = sigmoid(x_r + h_r + b_r)``, ``z`` likewise and
    ``n = tanh(x_n + b_n + r * (h_n + bhn))``. Absolute error 1e-6 in float32. The
    sums are taken here, where they cost less than in the matrix products. The
    backward pass recomputes the gates instead of keeping them.

    Args:
        h: Hidden state, ``[N, H]``; float32, float16 or bfloat16.
        from_x: Input parts x_r, x_z, x_n: ``[N, 3H]`` side by side or three of
            ``[N, H]``, in the dtype of ``h``. The layout that ``gate_products``
            returns is the one that is not copied.
        from_h: Hidden parts h_r, h_z, h_n, likewise.
        b: Biases of the three gates, ``[3H]``.
        bhn: Bias of the candidate's hidden part, ``[H]``.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[N, H]`` in the dtype of ``h``; the arithmetic is float32.

    Raises:
        ValueError: Shapes do not fit.
        TypeError: Dtypes differ or are not of the list above.
    """
    _check(h, from_x, from_h, b, bhn)
    chosen = resolve(backend, "gru_blend")
    if chosen == "reference" or h.size == 0:
        return gru_blend_reference(h, *_apart(from_x), *_apart(from_h), b, bhn)
    biases = b.astype(mx.float32), bhn.astype(mx.float32)
    return _blend_on(chosen)(h, _beside(from_x), _beside(from_h), *biases)


def _apart(gates: Gates) -> tuple[mx.array, ...]:
    if isinstance(gates, tuple):
        return gates
    return tuple(_end_loop(gate) for gate in mx.split(gates, 3, axis=1))


def _beside(gates: Gates) -> mx.array:
    return mx.concatenate(gates, axis=1) if isinstance(gates, tuple) else gates


@mx.custom_function
def gru_blend_reference(h: mx.array, *sums: mx.array) -> mx.array:
    """Plain MLX form of ``gru_blend``; the specification of its kernels.

    ``sums`` are the three input parts, the three hidden parts and both biases.
    """
    return _blend(h, *sums)


@gru_blend_reference.vjp
def _gru_blend_reference_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, ...]:
    d_h, d_r, d_z, d_n, d_hidden, d_b, d_bhn = _gradients(cotangent, *primals)
    return d_h, d_r, d_z, d_n, d_r, d_z, d_hidden, d_b, d_bhn


def _end_loop(x: mx.array) -> mx.array:
    """End the fused loop here on the CPU, where only short loops are vectorised.

    The compiler that builds ``mx.compile``'s loops gives up on a clip followed by
    arithmetic and on more than ten pairs of pointers.
    """
    return mx.contiguous(x) if mx.default_device() == mx.Device(mx.cpu) else x


def _polynomial(u: mx.array, c: tuple[float, ...]) -> mx.array:
    """Degree 4 in ``u``, in a shallow order."""
    square = u * u
    return (c[0] + c[1] * u) + square * ((c[2] + c[3] * u) + square * c[4])


def _saturate(x: mx.array) -> mx.array:
    return _end_loop(mx.clip(x, -_TANH_LIMIT, _TANH_LIMIT))


def _rational(x: mx.array) -> mx.array:
    """Compute tanh of a saturated argument."""
    u = x * x
    return x * _polynomial(u, _TANH_P) / _polynomial(u, _TANH_Q)


def _gate(x: mx.array) -> mx.array:
    """Compute the sigmoid, ``(1 + tanh(x / 2)) / 2``."""
    return 0.5 + 0.5 * _rational(_saturate(0.5 * x))


def _gates(
    x_r: mx.array,
    x_z: mx.array,
    x_n: mx.array,
    h_r: mx.array,
    h_z: mx.array,
    h_n: mx.array,
    b: mx.array,
    bhn: mx.array,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Reset gate, update gate, candidate and the candidate's hidden part."""
    b_r, b_z, b_n = mx.split(b, 3)
    r = _end_loop(_gate(x_r + h_r + b_r))
    hidden_part = _end_loop(h_n + bhn)
    n = _end_loop(_rational(_saturate(x_n + b_n + r * hidden_part)))
    z = _end_loop(_gate(x_z + h_z + b_z))
    return r, z, n, hidden_part


def _wide(arrays: tuple[mx.array, ...]) -> list[mx.array]:
    return [a.astype(mx.float32) for a in arrays]


@mx.compile
def _blend(h: mx.array, *sums: mx.array) -> mx.array:
    old, *wide = _wide((h, *sums))
    _, z, n, _ = _gates(*wide)
    return (n + z * (old - n)).astype(h.dtype)


@mx.compile
def _gradients(g: mx.array, h: mx.array, *sums: mx.array) -> tuple[mx.array, ...]:
    """Gradients of ``h``, ``r``, ``z``, ``n``, the hidden part, ``b`` and ``bhn``."""
    up, old, *wide = _wide((g, h, *sums))
    r, z, n, hidden_part = _gates(*wide)
    d_n = _end_loop(up * (1.0 - z) * (1.0 - n * n))  # before the tanh
    d_r = _end_loop(d_n * hidden_part * (r * (1.0 - r)))
    d_z = _end_loop(up * (old - n) * (z * (1.0 - z)))
    d_hidden = _end_loop(d_n * r)
    d_b = mx.concatenate([d.sum(axis=0) for d in (d_r, d_z, d_n)])
    found = [d.astype(h.dtype) for d in (up * z, d_r, d_z, d_n, d_hidden)]
    *_, b, bhn = sums
    return *found, d_b.astype(b.dtype), d_hidden.sum(axis=0).astype(bhn.dtype)


@cache
def _blend_on(backend: str) -> Callable[..., mx.array]:
    """``(h, from_x, from_h, b, bhn) -> blended`` on a kernel; biases are float32."""

    @mx.custom_function
    def blend(h: mx.array, *rest: mx.array) -> mx.array:
        (blended,) = launch(
            FORWARD,
            [h, *rest],
            output_shapes=[h.shape],
            output_dtypes=[h.dtype],
            backend=backend,
            **_shape(h, backend),
        )
        return blended

    @blend.vjp
    def blend_vjp(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, ...]:
        return _unblend_on(backend)(cotangent.astype(primals[0].dtype), *primals)

    return blend


@cache
def _unblend_on(backend: str) -> Callable[..., tuple[mx.array, ...]]:
    """Gradients of all inputs on a kernel; their own gradient is of the plain form."""

    @mx.custom_function
    def unblend(g: mx.array, h: mx.array, *rest: mx.array) -> tuple[mx.array, ...]:
        rows, width = h.shape
        *found, partial = launch(
            BACKWARD,
            [g, h, *rest],
            output_shapes=[h.shape]
            + [(rows, 3 * width)] * 2
            + [(-(-rows // _ROWS), 4, width)],
            output_dtypes=[h.dtype] * 3 + [mx.float32],
            backend=backend,
            **_shape(h, backend),
        )
        total = partial.sum(axis=0)  # [4, H]
        return *found, total[:3].reshape(-1), total[3]

    @unblend.vjp
    def unblend_vjp(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, ...],
        _outputs: tuple[mx.array, ...],
    ) -> tuple[mx.array, ...]:
        _, found = mx.vjp(plain_gradients, list(primals), list(cotangents))
        return tuple(found)

    return unblend


def plain_gradients(
    g: mx.array, h: mx.array, from_x: mx.array, from_h: mx.array, *biases: mx.array
) -> tuple[mx.array, ...]:
    """Give what ``unblend`` gives, in the plain form."""
    sums = *_apart(from_x), *_apart(from_h), *biases
    d_h, d_r, d_z, d_n, d_hidden, *d_biases = _gradients(g, h, *sums)
    d_x, d_y = _beside((d_r, d_z, d_n)), _beside((d_r, d_z, d_hidden))
    return d_h, d_x, d_y, *d_biases


def _shape(h: mx.array, backend: str) -> dict:
    """Grid, group and template of either kernel."""
    rows, width = h.shape
    lane = features_per_lane(h.dtype, backend)
    groups = -(-rows // _ROWS) * -(-width // (32 * lane))
    return {
        "grid": (groups * _WARPS * 32, 1, 1),
        "threadgroup": (_WARPS * 32, 1, 1),
        "template": [("T", h.dtype), ("V", lane), ("SG", _WARPS), ("ROWS", _ROWS)],
    }


def _check(
    h: mx.array, from_x: Gates, from_h: Gates, b: mx.array, bhn: mx.array
) -> None:
    if h.ndim != 2:
        raise ValueError(f"[gru_blend] h must be [N, H], got {list(h.shape)}.")
    if h.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[gru_blend] h must be a float array, got {h.dtype}.")
    width = h.shape[1]
    for name, array, size in (("b", b, 3 * width), ("bhn", bhn, width)):
        if array.shape != (size,):
            raise ValueError(
                f"[gru_blend] {name} must be [{size}], got {list(array.shape)}."
            )
    for name, gates in (("from_x", from_x), ("from_h", from_h)):
        _check_gates(h, name, gates)


def _check_gates(h: mx.array, name: str, gates: Gates) -> None:
    rows, width = h.shape
    apart = isinstance(gates, tuple)
    arrays = gates if isinstance(gates, tuple) else (gates,)
    expected = [(rows, width)] * 3 if apart else [(rows, 3 * width)]
    if [array.shape for array in arrays] != expected:
        raise ValueError(
            f"[gru_blend] {name} must be [{rows}, {3 * width}] or three of "
            f"[{rows}, {width}], got {[list(array.shape) for array in arrays]}."
        )
    for array in arrays:
        if array.dtype != h.dtype:
            raise TypeError(f"[gru_blend] {name} must be {h.dtype}, got {array.dtype}.")

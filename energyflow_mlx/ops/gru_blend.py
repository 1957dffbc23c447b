"""New hidden state of a GRU from the sums of its gates, with a gradient of its own.

    r  = sigmoid(x_r + h_r + b_r)
    z  = sigmoid(x_z + h_z + b_z)
    n  = tanh(x_n + b_n + r * (h_n + bhn))
    h' = n + z * (h - n)

The form for the CPU takes tanh and sigmoid from ``fast_math`` and ends its loops by
hand, since MLX vectorizes short fused loops only. The kernels use the tanh and
exponential of the hardware, and read and write every array once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import mlx.core as mx

from energyflow_mlx.ops._backend import (
    FLOAT_DTYPES,
    Backend,
    KernelSpec,
    Threads,
    features_per_lane,
    launch,
    resolve,
)
from energyflow_mlx.ops.even_columns import even_columns
from energyflow_mlx.ops.fast_math import end_loop, fast_sigmoid, fast_tanh

# Of the three gates r, z, n: ``[N, 3H]`` side by side, or three of ``[N, H]``.
Gates: TypeAlias = mx.array | tuple[mx.array, ...]

_INPUTS = ("h", "from_x", "from_h", "b", "bhn")
FORWARD = KernelSpec("gru_blend", "forward", inputs=_INPUTS, outputs=("blended",))
BACKWARD = KernelSpec(
    "gru_blend",
    "backward",
    inputs=("g", *_INPUTS),
    outputs=("d_h", "d_x", "d_y", "partial"),
)

_WARPS = 4  # simdgroups or warps a group
_ROWS = 32  # rows a group


def gate_products(x: mx.array, weights: mx.array) -> Gates:
    """Products of ``x`` with the weights of three gates, laid out for ``gru_blend``.

    A GPU gets one product, whose gradients are one product each; the loops of the
    CPU need every gate contiguous.

    Args:
        x: ``[..., D]``.
        weights: Rows of the gates r, z, n, ``[3H, D]``, dtype of ``x``.

    Returns:
        Three ``[..., H]`` where ``gru_blend`` runs its CPU form, else ``[..., 3H]``.
    """
    backend = resolve("auto", "gru_blend")
    if backend == "cpu":
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

    The formula is the module's; absolute error 1e-6 in float32. The sums are taken
    here, where they cost less than in the matrix products. The backward pass
    recomputes the gates instead of keeping them.

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
    if chosen == "cpu":
        return gru_blend_cpu(h, from_x, from_h, b, bhn)
    if chosen == "reference" or h.size == 0:
        return gru_blend_reference(h, from_x, from_h, b, bhn)
    biases = b.astype(mx.float32), bhn.astype(mx.float32)
    return _blend_on(chosen)(h, _beside(from_x), _beside(from_h), *biases)


def gru_blend_reference(
    h: mx.array, from_x: Gates, from_h: Gates, b: mx.array, bhn: mx.array
) -> mx.array:
    """Plain MLX form of ``gru_blend``; the specification of the others."""
    x_r, x_z, x_n = _wide(_apart(from_x))
    h_r, h_z, h_n = _wide(_apart(from_h))
    b_r, b_z, b_n = mx.split(b.astype(mx.float32), 3)
    r = mx.sigmoid(x_r + h_r + b_r)
    z = mx.sigmoid(x_z + h_z + b_z)
    n = mx.tanh(x_n + b_n + r * (h_n + bhn))
    return (n + z * (h - n)).astype(h.dtype)


def gru_blend_cpu(
    h: mx.array, from_x: Gates, from_h: Gates, b: mx.array, bhn: mx.array
) -> mx.array:
    """Form of ``gru_blend`` for the CPU: short fused loops, rational tanh."""
    return _blend_on_cpu(h, *_contiguous(from_x), *_contiguous(from_h), b, bhn)


def _apart(gates: Gates) -> tuple[mx.array, ...]:
    return gates if isinstance(gates, tuple) else tuple(mx.split(gates, 3, axis=1))


def _contiguous(gates: Gates) -> tuple[mx.array, ...]:
    """Three gates as the fused loops want them; those given apart are left alone."""
    if isinstance(gates, tuple):
        return gates
    return tuple(end_loop(gate) for gate in mx.split(gates, 3, axis=1))


def _beside(gates: Gates) -> mx.array:
    return mx.concatenate(gates, axis=1) if isinstance(gates, tuple) else gates


def _wide(arrays: tuple[mx.array, ...]) -> list[mx.array]:
    return [a.astype(mx.float32) for a in arrays]


@mx.custom_function
def _blend_on_cpu(h: mx.array, *sums: mx.array) -> mx.array:
    """Blend with three input parts, three hidden parts and both biases."""
    return _blend(h, *sums)


@_blend_on_cpu.vjp
def _blend_on_cpu_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, ...]:
    d_h, d_r, d_z, d_n, d_hidden, d_b, d_bhn = _gradients(cotangent, *primals)
    return d_h, d_r, d_z, d_n, d_r, d_z, d_hidden, d_b, d_bhn


def _gates(sums: list[mx.array]) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Reset gate, update gate, candidate and the candidate's hidden part."""
    x_r, x_z, x_n, h_r, h_z, h_n, b, bhn = sums
    b_r, b_z, b_n = mx.split(b, 3)
    r = end_loop(fast_sigmoid(x_r + h_r + b_r))
    hidden_part = end_loop(h_n + bhn)
    n = end_loop(fast_tanh(x_n + b_n + r * hidden_part))
    z = end_loop(fast_sigmoid(x_z + h_z + b_z))
    return r, z, n, hidden_part


@mx.compile
def _blend(h: mx.array, *sums: mx.array) -> mx.array:
    old, *wide = _wide((h, *sums))
    _, z, n, _ = _gates(wide)
    return (n + z * (old - n)).astype(h.dtype)


@mx.compile
def _gradients(g: mx.array, h: mx.array, *sums: mx.array) -> tuple[mx.array, ...]:
    """Gradients of ``h``, ``r``, ``z``, ``n``, the hidden part, ``b`` and ``bhn``."""
    up, old, *wide = _wide((g, h, *sums))
    r, z, n, hidden_part = _gates(wide)
    d_n = end_loop(up * (1.0 - z) * (1.0 - n * n))  # before the tanh
    d_r = end_loop(d_n * hidden_part * (r * (1.0 - r)))
    d_z = end_loop(up * (old - n) * (z * (1.0 - z)))
    d_hidden = end_loop(d_n * r)
    d_b = mx.concatenate([d.sum(axis=0) for d in (d_r, d_z, d_n)])
    found = [d.astype(h.dtype) for d in (up * z, d_r, d_z, d_n, d_hidden)]
    *_, b, bhn = sums
    return *found, d_b.astype(b.dtype), d_hidden.sum(axis=0).astype(bhn.dtype)


@cache
def _blend_on(backend: str) -> Callable[..., mx.array]:
    """``(h, from_x, from_h, b, bhn) -> blended`` on a kernel; biases are float32."""

    @mx.custom_function
    def blend(h: mx.array, *rest: mx.array) -> mx.array:
        outputs = [(h.shape, h.dtype)]
        (blended,) = launch(FORWARD, [h, *rest], outputs, _threads(h, backend), backend)
        return blended

    @blend.vjp
    def blend_vjp(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, ...]:
        return _gradients_on(backend)(cotangent.astype(primals[0].dtype), *primals)

    return blend


@cache
def _gradients_on(backend: str) -> Callable[..., tuple[mx.array, ...]]:
    """Gradients of all inputs on a kernel; their own gradient is the reference's."""

    @mx.custom_function
    def backward(g: mx.array, h: mx.array, *rest: mx.array) -> tuple[mx.array, ...]:
        rows, width = h.shape
        outputs = [(h.shape, h.dtype), *[((rows, 3 * width), h.dtype)] * 2]
        outputs.append(((-(-rows // _ROWS), 4, width), mx.float32))
        threads = _threads(h, backend)
        *found, partial = launch(BACKWARD, [g, h, *rest], outputs, threads, backend)
        total = partial.sum(axis=0)  # [4, H]
        return *found, total[:3].reshape(-1), total[3]

    @backward.vjp
    def backward_vjp(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, ...],
        _outputs: tuple[mx.array, ...],
    ) -> tuple[mx.array, ...]:
        def plain(g: mx.array, *arrays: mx.array) -> Any:
            return mx.vjp(gru_blend_reference, list(arrays), [g])[1]

        return tuple(mx.vjp(plain, list(primals), list(cotangents))[1])

    return backward


def _threads(h: mx.array, backend: str) -> Threads:
    """Threads of either kernel."""
    rows, width = h.shape
    lane = features_per_lane(h.dtype, backend)
    groups = -(-rows // _ROWS) * -(-width // (32 * lane))
    template = [("T", h.dtype), ("V", lane), ("SG", _WARPS), ("ROWS", _ROWS)]
    return Threads(groups * _WARPS * 32, _WARPS * 32, template)


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

"""New hidden state of a GRU from the sums of its gates, with a gradient of its own.

    r  = sigmoid(x_r + h_r + b_r)
    z  = sigmoid(x_z + h_z + b_z)
    n  = tanh(x_n + b_n + r * (h_n + bhn))
    h' = n + z * (h - n)

Outside its kernels every operation of the formula is a pass over memory. The kernels
read and write every array once; those of GPUs use the hardware's exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

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
from energyflow_mlx.runtime import native

_INPUTS = ("h", "from_x", "from_h", "b", "bhn")
FORWARD = KernelSpec("gru_blend", "forward", inputs=_INPUTS, outputs=("blended",))
BACKWARD = KernelSpec(
    "gru_blend",
    "backward",
    inputs=("g", *_INPUTS),
    outputs=("d_h", "d_x", "d_y", "partial"),
)

_WARPS = 4  # simdgroups or warps a group
_ROWS = 32  # rows a group; on a CPU, of a thread's turn


def gate_products(x: mx.array, weights: mx.array) -> mx.array:
    """Products of ``x`` with the weights of three gates, side by side.

    Args:
        x: ``[..., D]``.
        weights: Rows of the gates r, z, n, ``[3H, D]``, dtype of ``x``.

    Returns:
        ``[..., 3H]``.
    """
    backend = resolve("auto", "gru_blend")
    if backend in ("metal", "cuda"):
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
    from_x: mx.array,
    from_h: mx.array,
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
        from_x: Input parts x_r, x_z, x_n side by side, ``[N, 3H]``, dtype of ``h``.
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
        return gru_blend_reference(h, from_x, from_h, b, bhn)
    biases = b.astype(mx.float32), bhn.astype(mx.float32)
    sums = h, from_x, from_h
    if chosen == "cpu":
        sums = tuple(a.astype(mx.float32) for a in sums)
    return _blend_on(chosen)(*sums, *biases).astype(h.dtype)


def gru_blend_reference(
    h: mx.array, from_x: mx.array, from_h: mx.array, b: mx.array, bhn: mx.array
) -> mx.array:
    """Plain MLX form of ``gru_blend``; the specification of the others."""
    x_r, x_z, x_n = mx.split(from_x.astype(mx.float32), 3, axis=1)
    h_r, h_z, h_n = mx.split(from_h.astype(mx.float32), 3, axis=1)
    b_r, b_z, b_n = mx.split(b.astype(mx.float32), 3)
    r = mx.sigmoid(x_r + h_r + b_r)
    z = mx.sigmoid(x_z + h_z + b_z)
    n = mx.tanh(x_n + b_n + r * (h_n + bhn))
    return (n + z * (h - n)).astype(h.dtype)


@cache
def _blend_on(backend: str) -> Callable[..., mx.array]:
    """``(h, from_x, from_h, b, bhn) -> blended`` on a kernel; biases are float32."""

    @mx.custom_function
    def blend(h: mx.array, *rest: mx.array) -> mx.array:
        (blended,) = _run(FORWARD, [h, *rest], [(h.shape, h.dtype)], backend)
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
        *found, partial = _run(BACKWARD, [g, h, *rest], outputs, backend)
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


def _run(
    spec: KernelSpec,
    arrays: Sequence[mx.array],
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    backend: str,
) -> list[mx.array]:
    h = arrays[spec.inputs.index("h")]
    rows, width = h.shape
    if backend == "cpu":
        name = f"{spec.op}_{spec.part}"
        return native.launch(name, arrays, outputs, [rows, width, _ROWS])
    lane = features_per_lane(h.dtype, backend)
    groups = -(-rows // _ROWS) * -(-width // (32 * lane))
    template = [("T", h.dtype), ("V", lane), ("SG", _WARPS), ("ROWS", _ROWS)]
    threads = Threads(groups * _WARPS * 32, _WARPS * 32, template)
    return launch(spec, arrays, outputs, threads, backend)


def _check(
    h: mx.array, from_x: mx.array, from_h: mx.array, b: mx.array, bhn: mx.array
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


def _check_gates(h: mx.array, name: str, gates: mx.array) -> None:
    expected = (h.shape[0], 3 * h.shape[1])
    if gates.shape != expected:
        raise ValueError(
            f"[gru_blend] {name} must be {list(expected)}, got {list(gates.shape)}."
        )
    if gates.dtype != h.dtype:
        raise TypeError(f"[gru_blend] {name} must be {h.dtype}, got {gates.dtype}.")

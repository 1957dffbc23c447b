"""Causal dilated convolution over time, as columns and one matrix product.

The columns of time ``t`` are the ``K`` samples ``x[t - (K - 1 - k) * dilation]``,
channel fastest, so that a weight ``[C_out, K, C_in]`` is a matrix over them as it
stands. Tap ``K - 1`` is the current sample; times before the start are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

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
from energyflow_mlx.ops._vmap import fold_mapped_axis
from energyflow_mlx.ops.row_sums import linear

FORWARD = KernelSpec(
    "causal_im2col", "forward", inputs=("samples",), outputs=("columns",)
)
BACKWARD = KernelSpec(
    "causal_im2col", "backward", inputs=("gcolumns",), outputs=("gsamples",)
)

_WARPS = 4  # simdgroups or warps a group
_ROWS = 8  # times a group, a multiple of the above


def causal_im2col(
    x: mx.array, kernel_size: int, dilation: int, *, backend: Backend = "auto"
) -> mx.array:
    """Columns of a causal dilated convolution.

    cols[b, t, k * C + c] = x[b, t - (K - 1 - k) * dilation, c], 0 before the start

    Args:
        x: Samples, ``[B, L, C]``; float32, float16 or bfloat16.
        kernel_size: Number of taps K.
        dilation: Distance between taps, in samples.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Columns, ``[B, L, K * C]``, in ``x.dtype``.

    Raises:
        ValueError: ``x`` is not 3-D, or ``kernel_size`` or ``dilation`` is under 1.
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    _check(x, kernel_size, dilation)
    chosen = resolve(backend, "causal_im2col")
    if x.size == 0:
        chosen = "reference"
    return _im2col(chosen, kernel_size, dilation)(x)


def causal_im2col_reference(x: mx.array, kernel_size: int, dilation: int) -> mx.array:
    """Plain MLX form of ``causal_im2col``; the specification of its kernel."""
    batch, length, channels = x.shape
    columns = mx.zeros((batch, length, kernel_size * channels), x.dtype)
    for k in range(kernel_size):
        shift = min((kernel_size - 1 - k) * dilation, length)
        columns[:, shift:, k * channels : (k + 1) * channels] = x[:, : length - shift]
    return columns


def causal_col2im_reference(
    columns: mx.array, kernel_size: int, dilation: int
) -> mx.array:
    """Adjoint of ``causal_im2col``: ``[B, L, K * C]`` summed back to ``[B, L, C]``."""
    batch, length, width = columns.shape
    channels = width // kernel_size
    after = mx.zeros((batch, (kernel_size - 1) * dilation, width))
    padded = mx.concatenate([columns.astype(mx.float32), after], axis=1)
    x = mx.zeros((batch, length, channels))
    for k in range(kernel_size):
        shift = (kernel_size - 1 - k) * dilation
        tap = slice(k * channels, (k + 1) * channels)
        x = x + padded[:, shift : shift + length, tap]
    return x.astype(columns.dtype)


def causal_conv1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    dilation: int,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Causal dilated convolution over time.

    y[b, t, o] = bias[o]
        + sum_k sum_c x[b, t - (K - 1 - k) * dilation, c] * weight[o, k, c]

    Args:
        x: Samples, ``[B, L, C_in]``; float32, float16 or bfloat16.
        weight: Taps, ``[C_out, K, C_in]``; tap ``K - 1`` meets the current sample.
        bias: ``[C_out]`` or ``None``.
        dilation: Distance between taps, in samples.
        backend: Which implementation of the columns to run; see ``ops._backend``.

    Returns:
        ``[B, L, C_out]`` in ``x.dtype``.

    Raises:
        ValueError: A shape does not fit, or ``dilation`` is under 1.
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    if weight.ndim != 3 or weight.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"[causal_conv1d] weight must be [C_out, K, {x.shape[-1]}], "
            f"got {list(weight.shape)}."
        )
    out, kernel_size, _ = weight.shape
    if bias is not None and bias.shape != (out,):
        raise ValueError(
            f"[causal_conv1d] bias must be [{out}], got {list(bias.shape)}."
        )
    _check(x, kernel_size, dilation)
    # Taps that reach back past the start for every time of x meet only zeros.
    live = min(kernel_size, (max(x.shape[1], 1) - 1) // dilation + 1)
    weight = weight[:, kernel_size - live :].reshape(out, -1)
    columns = x
    if live > 1:
        columns = causal_im2col(x, live, dilation, backend=backend)
    if bias is None:
        return columns @ weight.T
    return linear(columns, weight, bias)


@cache
def _im2col(
    backend: str, kernel_size: int, dilation: int
) -> Callable[[mx.array], mx.array]:
    """Map samples to columns, with the gather as its gradient."""

    @mx.custom_function
    def im2col(x: mx.array) -> mx.array:
        if backend == "reference":
            return causal_im2col_reference(x, kernel_size, dilation)
        batch, length, channels = x.shape
        outputs = [((batch, length, kernel_size * channels), x.dtype)]
        threads = _threads(x.shape, x.dtype, kernel_size, dilation, backend)
        return launch(FORWARD, [x], outputs, threads, backend)[0]

    @im2col.vjp
    def im2col_vjp(x: mx.array, cotangent: mx.array, columns: mx.array) -> mx.array:
        return _col2im(backend, kernel_size, dilation)(cotangent.astype(x.dtype))

    return fold_mapped_axis(im2col)


@cache
def _col2im(
    backend: str, kernel_size: int, dilation: int
) -> Callable[[mx.array], mx.array]:
    """Sum columns back to samples, with the columns as its gradient."""

    @mx.custom_function
    def col2im(columns: mx.array) -> mx.array:
        if backend == "reference":
            return causal_col2im_reference(columns, kernel_size, dilation)
        batch, length, width = columns.shape
        shape, dtype = (batch, length, width // kernel_size), columns.dtype
        threads = _threads(shape, dtype, kernel_size, dilation, backend)
        return launch(BACKWARD, [columns], [(shape, dtype)], threads, backend)[0]

    @col2im.vjp
    def col2im_vjp(columns: mx.array, cotangent: mx.array, x: mx.array) -> mx.array:
        return _im2col(backend, kernel_size, dilation)(cotangent.astype(columns.dtype))

    return fold_mapped_axis(col2im)


def _threads(
    samples: tuple[int, ...],
    dtype: mx.Dtype,
    kernel_size: int,
    dilation: int,
    backend: str,
) -> Threads:
    """Threads of both kernels for samples of the given shape."""
    batch, length, channels = samples
    lane = features_per_lane(dtype, backend)
    groups = batch * -(-length // _ROWS) * -(-channels // (32 * lane))
    template = [("T", dtype), ("V", lane), ("SG", _WARPS), ("ROWS", _ROWS)]
    template += [("K", kernel_size), ("DILATION", dilation)]
    return Threads(groups * _WARPS * 32, _WARPS * 32, template)


def _check(x: mx.array, kernel_size: int, dilation: int) -> None:
    if x.ndim != 3:
        raise ValueError(f"[causal_im2col] x must be [B, L, C], got {list(x.shape)}.")
    if kernel_size < 1 or dilation < 1:
        raise ValueError(
            "[causal_im2col] kernel_size and dilation must be at least 1, "
            f"got {kernel_size} and {dilation}."
        )
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[causal_im2col] x must be a float array, got {x.dtype}.")

"""Causal dilated convolution over time, as columns and one matrix product.

The columns of time ``t`` are the ``K`` samples ``x[t - (K - 1 - k) * dilation]``,
channel fastest, so that a weight ``[C_out, K, C_in]`` is a matrix over them as it
stands. Tap ``K - 1`` is the current sample; times before the start are zero.
"""

from __future__ import annotations

import mlx.core as mx

from energyflow_mlx.ops._backend import FLOAT_DTYPES, Backend, resolve


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
    resolve(backend, "causal_im2col")
    return causal_im2col_reference(x, kernel_size, dilation)


def causal_im2col_reference(x: mx.array, kernel_size: int, dilation: int) -> mx.array:
    """Plain MLX form of ``causal_im2col``; the specification of its kernels."""
    length = x.shape[1]
    taps = []
    for k in range(kernel_size):
        shift = min((kernel_size - 1 - k) * dilation, length)
        taps.append(mx.pad(x[:, : length - shift], [(0, 0), (shift, 0), (0, 0)]))
    return mx.concatenate(taps, axis=-1)


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
    return mx.addmm(bias, columns, weight.T)


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

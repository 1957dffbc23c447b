"""Layers whose weights' gradients are sums over tokens: linear and layer norm.

    linear       y = x W^T + b                     gb = sum_n g[n]
    layer norm   y = w (x - mean) / std + b        gw = sum_n g[n] xhat[n]

On a GPU MLX sums the columns of a tall half-format matrix with a few groups, one after
another: a bias gradient of ``[12288, 384]`` took 126 us on an H200, as long as three
matrix products. There the sum is a product with a row of ones, which the library
splits over the whole device. On a CPU MLX's own sums stay.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx

from energyflow_mlx.ops import _backend


def linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Linear layer, ``y = x W^T + b``.

    Args:
        x: ``[..., D]``; a float format.
        weight: ``[H, D]``.
        bias: ``[H]``.

    Returns:
        ``[..., H]``.
    """
    if _backend.on_gpu():
        return _linear(x, weight, bias)
    return mx.addmm(bias, x, weight.T)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Layer norm over the last axis, ``y = w (x - mean) / sqrt(var + eps) + b``.

    Args:
        x: ``[..., D]``; a float format; statistics are float32.
        weight: ``[D]``.
        bias: ``[D]``.
        eps: Added to the variance.

    Returns:
        Same shape and dtype as ``x``.
    """
    if _backend.on_gpu():
        return _layer_norm(x, weight, bias, eps)
    return mx.fast.layer_norm(x, weight, bias, eps=eps)


def row_sum(x: mx.array) -> mx.array:
    """Sum of the rows, ``[N, D]`` to ``[D]``, as a product with ones."""
    # Reshaped, since MLX takes an index into an array as a gather.
    return (_ones(x.shape[0], x.dtype) @ x).reshape(-1)


@lru_cache(maxsize=64)
def _ones(count: int, dtype: mx.Dtype) -> mx.array:
    """Row of ones ``[1, N]``, with its values, so that no graph fills it again."""
    return mx.array([[1.0] * count], dtype)


@mx.custom_function
def _linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    return mx.addmm(bias, x, weight.T)


@_linear.vjp
def _linear_vjp(
    primals: tuple[mx.array, mx.array, mx.array], g: mx.array, _output: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    x, weight, bias = primals
    flat = g.reshape(-1, g.shape[-1])  # [N, H]
    gweight = flat.T @ x.reshape(-1, x.shape[-1])
    return g @ weight, gweight, row_sum(flat).astype(bias.dtype)


def _layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    def normalize(x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, None, None, eps=eps)

    @mx.custom_function
    def norm(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, weight, bias, eps=eps)

    @norm.vjp
    def norm_vjp(
        primals: tuple[mx.array, mx.array, mx.array], g: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        x, weight, bias = primals
        (xhat,), (gx,) = mx.vjp(normalize, [x], [g * weight])
        width = g.shape[-1]
        gweight = row_sum((g * xhat).reshape(-1, width))
        gbias = row_sum(g.reshape(-1, width))
        return gx, gweight.astype(weight.dtype), gbias.astype(bias.dtype)

    return norm(x, weight, bias)

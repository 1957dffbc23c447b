"""Linear layer whose bias gradient, a sum over tokens, is a matrix product.

    y = x W^T + b,   gb = sum_n g[n]

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

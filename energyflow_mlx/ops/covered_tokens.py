"""Tokens with a condition and with what has been said so far: a decoder's input.

    c[b, l] = sum_{i <= l} mask[b, i] t[b, i] / sqrt(l + 1)
    y = mask * (t + condition + c W^T + bias)

``c`` is the coverage. The native form sums and multiplies the real tokens only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, resolve
from energyflow_mlx.ops.row_sums import linear
from energyflow_mlx.runtime import native


def covered_tokens(
    tokens: mx.array,
    mask: mx.array,
    condition: mx.array,
    weight: mx.array,
    bias: mx.array,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Add condition and projected coverage to tokens, and blank the masked places.

    Args:
        tokens: ``[B, L, D]``; float32, float16 or bfloat16.
        mask: 1 for real tokens, ``[B, L]``; no gradient reaches it.
        condition: ``[B, D]``.
        weight: Of the coverage, ``[D, D]``.
        bias: ``[D]``.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, L, D]`` in the dtype of ``tokens``; sums are accumulated in float32.
    """
    chosen = resolve(backend, "covered_tokens")
    if chosen == "reference" or tokens.size == 0:
        return covered_tokens_reference(tokens, mask, condition, weight, bias)
    arrays = (tokens, mx.stop_gradient(mask), condition, weight, bias)
    return _covered()(*(a.astype(mx.float32) for a in arrays)).astype(tokens.dtype)


def covered_tokens_reference(
    tokens: mx.array,
    mask: mx.array,
    condition: mx.array,
    weight: mx.array,
    bias: mx.array,
) -> mx.array:
    """Plain MLX form of ``covered_tokens``; the specification of the native one."""
    real = tokens.astype(mx.float32) * mask[..., None]
    count = mx.arange(1, tokens.shape[1] + 1)[None, :, None]
    covered = project_coverage(mx.cumsum(real, axis=1), count, weight, bias)
    y = tokens + condition[:, None, :] + covered
    return y * mask[..., None].astype(y.dtype)


def project_coverage(
    total: mx.array, count: mx.array, weight: mx.array, bias: mx.array
) -> mx.array:
    """Map the sum of ``count`` token embeddings, float32, to ``[..., D]``."""
    scaled = total * mx.rsqrt(count.astype(mx.float32))
    return linear(scaled.astype(weight.dtype), weight, bias)


@cache
def _covered() -> Callable[..., mx.array]:
    """``(tokens, mask, condition, weight, bias) -> y``, with its gradient."""

    @mx.custom_function
    def covered(*arrays: mx.array) -> mx.array:
        shape = arrays[0].shape
        outputs = [(shape, mx.float32)]
        return native.launch("covered_tokens_forward", arrays, outputs, shape)[0]

    @covered.vjp
    def covered_vjp(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> list[mx.array]:
        tokens, mask, *rest = primals
        outputs = [(a.shape, mx.float32) for a in (tokens, *rest)]
        arrays = [*primals, cotangent]
        first, *others = native.launch(
            "covered_tokens_backward", arrays, outputs, tokens.shape
        )
        return [first, mx.zeros_like(mask), *others]

    return covered

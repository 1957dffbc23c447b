"""Mean over the real tokens of a padded batch of sequences."""

from __future__ import annotations

import mlx.core as mx

from energyflow_mlx.ops._backend import FLOAT_DTYPES, Backend, resolve


def masked_mean(x: mx.array, mask: mx.array, *, backend: Backend = "auto") -> mx.array:
    """Mean of the unmasked tokens of each sequence.

    y[b] = sum_l mask[b, l] * x[b, l] / max(1, sum_l mask[b, l])

    Tokens whose mask is 0 never enter the sum, whatever they hold. No gradient
    reaches the mask.

    Args:
        x: Token features, ``[B, L, D]``; float32, float16 or bfloat16.
        mask: 1 for real tokens and 0 for padding, ``[B, L]``.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Pooled features, ``[B, D]``, in ``x.dtype``; sums are accumulated in float32.
        A sequence without a real token gives zeros.

    Raises:
        ValueError: ``x`` is not 3-D or ``mask`` is not ``x.shape[:2]``.
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    _check(x, mask)
    resolve(backend, "masked_mean")
    return masked_mean_reference(x, mask)


def masked_mean_reference(x: mx.array, mask: mx.array) -> mx.array:
    """Plain MLX form of ``masked_mean``; the specification of its kernels."""
    weight = mx.stop_gradient(mask.astype(mx.float32))[..., None]  # [B, L, 1]
    real = mx.where(weight != 0, x.astype(mx.float32), 0.0)
    count = mx.maximum(weight.sum(axis=1), 1.0)  # [B, 1]
    return ((real * weight).sum(axis=1) / count).astype(x.dtype)


def _check(x: mx.array, mask: mx.array) -> None:
    if x.ndim != 3:
        raise ValueError(f"[masked_mean] x must be [B, L, D], got {list(x.shape)}.")
    if mask.shape != x.shape[:2]:
        raise ValueError(
            f"[masked_mean] mask must be [B, L] = {list(x.shape[:2])}, "
            f"got {list(mask.shape)}."
        )
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[masked_mean] x must be a float array, got {x.dtype}.")

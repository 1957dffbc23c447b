"""Mean over the real tokens of a padded batch of sequences."""

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

FORWARD = KernelSpec(
    "masked_mean", "forward", inputs=("features", "mask"), outputs=("pooled", "scale")
)
BACKWARD = KernelSpec(
    "masked_mean",
    "backward",
    inputs=("gpooled", "mask", "scale"),
    outputs=("gfeatures",),
)

_WARPS = 4  # simdgroups or warps a group
_ROWS = 16  # tokens a group of the backward kernel


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
    chosen = resolve(backend, "masked_mean")
    if chosen == "reference" or x.size == 0:
        return masked_mean_reference(x, mask)
    return _pool(chosen)(x, mx.stop_gradient(mask.astype(mx.float32)))[0]


def masked_mean_reference(x: mx.array, mask: mx.array) -> mx.array:
    """Plain MLX form of ``masked_mean``; the specification of its kernels."""
    weight = mx.stop_gradient(mask.astype(mx.float32))[..., None]  # [B, L, 1]
    real = mx.where(weight != 0, x.astype(mx.float32), 0.0)
    count = mx.maximum(weight.sum(axis=1), 1.0)  # [B, 1]
    return ((real * weight).sum(axis=1) / count).astype(x.dtype)


@cache
def _pool(backend: str) -> Callable[..., tuple[mx.array, mx.array]]:
    """``(x, mask) -> (pooled, scale)`` on a kernel, with its gradient."""

    @mx.custom_function
    def pool(x: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        batch, _, width = x.shape
        lane = features_per_lane(x.dtype, backend)
        groups = batch * -(-width // (32 * lane))
        template = [("T", x.dtype), ("V", lane), ("SG", _WARPS)]
        threads = Threads(groups * _WARPS * 32, _WARPS * 32, template)
        outputs = [((batch, width), x.dtype), ((batch,), mx.float32)]
        pooled, scale = launch(FORWARD, [x, mask], outputs, threads, backend)
        return pooled, scale

    @pool.vjp
    def pool_vjp(
        primals: tuple[mx.array, mx.array],
        cotangents: tuple[mx.array, mx.array],
        outputs: tuple[mx.array, mx.array],
    ) -> tuple[mx.array, mx.array]:
        x, mask = primals
        # The scale leaves the operation only for this use, so it has no cotangent.
        gx = _spread(backend)(cotangents[0].astype(x.dtype), mask, outputs[1])
        return gx, mx.zeros_like(mask)

    return pool


@cache
def _spread(backend: str) -> Callable[..., mx.array]:
    """``(gpooled, mask, scale) -> gx`` on a kernel; the adjoint of the mean."""

    @mx.custom_function
    def spread(gpooled: mx.array, mask: mx.array, scale: mx.array) -> mx.array:
        (batch, width), length = gpooled.shape, mask.shape[1]
        lane = features_per_lane(gpooled.dtype, backend)
        groups = batch * -(-length // _ROWS) * -(-width // (32 * lane))
        dtype = gpooled.dtype
        template = [("T", dtype), ("V", lane), ("SG", _WARPS), ("ROWS", _ROWS)]
        threads = Threads(groups * _WARPS * 32, _WARPS * 32, template)
        outputs = [((batch, length, width), dtype)]
        (gx,) = launch(BACKWARD, [gpooled, mask, scale], outputs, threads, backend)
        return gx

    @spread.vjp
    def spread_vjp(
        primals: tuple[mx.array, mx.array, mx.array],
        cotangent: mx.array,
        output: mx.array,
    ) -> tuple[mx.array, mx.array, mx.array]:
        gpooled, mask, scale = primals
        pooled = _pool(backend)(cotangent.astype(gpooled.dtype), mask)[0]
        return pooled, mx.zeros_like(mask), mx.zeros_like(scale)

    return spread


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

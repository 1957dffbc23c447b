"""Layer norm over features, of tokens to which a vector of their sentence may be added.

    v = x + added,  y = w xhat + b,  xhat = (v - mean(v)) / sqrt(var(v) + eps)
    gx = (h - mean(h) - xhat mean(h xhat)) / sqrt(var + eps),  h = g w
    gw = sum_n g[n] xhat[n],  gb = sum_n g[n]

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.1. MLX writes
``g xhat`` for every token and sums its columns, and those of ``g``, in passes of their
own: on an H200 each of the two took four times the time of the rest, 126 us for
``[12288, 384]`` in bfloat16. The kernel adds up both while it holds the rows, a few to
a warp, and leaves one short sum. On a CPU the native form takes one pass over memory
where MLX's gradient takes one for each of its operations, on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

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
from energyflow_mlx.runtime import native

FORWARD = KernelSpec(
    "layer_norm", "forward", inputs=("x", "weight", "bias", "eps"), outputs=("y",)
)
BACKWARD = KernelSpec(
    "layer_norm",
    "backward",
    inputs=("x", "weight", "g", "eps"),
    outputs=("gx", "sums"),
)

_WARPS = 4  # simdgroups or warps a group
_UNITS = 1024  # about as many warps share the rows of the backward kernel
_MOST_ROWS = 64  # of one of them
_WIDEST = 2048  # features a warp holds in its registers


def layer_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    eps: float,
    added: mx.array | None = None,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Layer norm over the last axis.

    Args:
        x: ``[..., D]``, with ``added`` ``[B, L, D]``; float32, float16 or bfloat16.
        weight: ``[D]``.
        bias: ``[D]``.
        eps: Added to the variance.
        added: ``[B, D]``, added to every token of its sentence before the norm.
        backend: Which implementation to run; see ``ops._backend``. Rows wider than
            2,048 features run the plain form.

    Returns:
        Same shape and dtype as ``x``; statistics and sums are float32.

    Raises:
        ValueError: ``weight`` or ``bias`` is not ``[D]``, or ``added`` does not fit.
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    _check(x, weight, bias, added)
    chosen = resolve(backend, "layer_norm")
    width = x.shape[-1]
    is_too_wide = chosen in ("metal", "cuda") and width > _WIDEST
    if chosen == "reference" or x.size == 0 or is_too_wide:
        return layer_norm_reference(x, weight, bias, eps, added)
    if chosen == "cpu":
        given = [x, weight, bias] + ([] if added is None else [added])
        return _native(eps)(*(a.astype(mx.float32) for a in given)).astype(x.dtype)
    v = _with_added(x, added)
    arrays = (v.reshape(-1, width), weight.astype(x.dtype), bias.astype(x.dtype))
    return _norm(chosen, eps)(*arrays).reshape(x.shape)


def layer_norm_reference(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    eps: float,
    added: mx.array | None = None,
) -> mx.array:
    """Plain MLX form of ``layer_norm``; the specification of the others."""
    return mx.fast.layer_norm(_with_added(x, added), weight, bias, eps=eps)


def _with_added(x: mx.array, added: mx.array | None) -> mx.array:
    return x if added is None else x + added[:, None, :]


@cache
def _native(eps: float) -> Callable[..., mx.array]:
    """``(x, weight, bias[, added]) -> y`` in C, float32, with its gradient."""

    @mx.custom_function
    def norm(*arrays: mx.array) -> mx.array:
        outputs = [(arrays[0].shape, mx.float32)]
        return native.launch(
            "layer_norm_forward", arrays, outputs, _sizes(arrays), [eps]
        )[0]

    @norm.vjp
    def norm_vjp(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> list[mx.array]:
        return native.launch(
            "layer_norm_backward",
            [*primals, cotangent],
            [(a.shape, mx.float32) for a in primals],
            _sizes(primals),
            [eps],
        )

    return norm


def _sizes(arrays: tuple[mx.array, ...]) -> list[int]:
    """Groups, rows of a group, width, and whether a vector is added to each group."""
    x, width = arrays[0], arrays[1].shape[0]
    if len(arrays) == 4:
        return [x.shape[0], x.shape[1], width, 1]
    return [x.size // width, 1, width, 0]


@cache
def _norm(backend: str, eps: float) -> Callable[..., mx.array]:
    """``(x [N, D], weight, bias) -> y`` on a kernel, with its gradient."""
    plain = partial(layer_norm_reference, eps=eps)

    @mx.custom_function
    def norm(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        template = _template(x, backend)
        groups = -(-len(x) // _WARPS)
        threads = Threads(groups * _WARPS * 32, _WARPS * 32, template)
        inputs = [x, weight, bias, mx.array([eps], mx.float32)]
        (y,) = launch(FORWARD, inputs, [(x.shape, x.dtype)], threads, backend)
        return y

    @norm.vjp
    def norm_vjp(
        primals: tuple[mx.array, mx.array, mx.array], g: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        return _gradients(backend, eps, plain)(*primals, g.astype(primals[0].dtype))

    return norm


def _gradients(
    backend: str, eps: float, plain: Callable[..., mx.array]
) -> Callable[..., tuple[mx.array, mx.array, mx.array]]:
    """``(x, weight, bias, g) -> gradients``; their own are the reference's."""

    @mx.custom_function
    def gradients(
        x: mx.array, weight: mx.array, bias: mx.array, g: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        (count, width), dtype = x.shape, x.dtype
        rows = min(_MOST_ROWS, max(1, count // _UNITS))
        units = -(-count // rows)
        template = [*_template(x, backend), ("ROWS", rows)]
        groups = -(-units // _WARPS)
        threads = Threads(groups * _WARPS * 32, _WARPS * 32, template)
        outputs = [((count, width), dtype), ((units, 2, width), mx.float32)]
        inputs = [x, weight, g, mx.array([eps], mx.float32)]
        gx, sums = launch(BACKWARD, inputs, outputs, threads, backend)
        both = mx.sum(sums, axis=0).astype(dtype)
        gweight, gbias = mx.split(both, 2)
        return gx, gweight.reshape(-1), gbias.reshape(-1)

    @gradients.vjp
    def gradients_vjp(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, ...],
        _outputs: tuple[mx.array, ...],
    ) -> tuple[mx.array, ...]:
        def first(*arrays: mx.array) -> list[mx.array]:
            *own, g = arrays
            return mx.vjp(plain, own, [g])[1]

        return tuple(mx.vjp(first, list(primals), list(cotangents))[1])

    return gradients


def _template(x: mx.array, backend: str) -> list[tuple[str, object]]:
    lane = features_per_lane(x.dtype, backend)
    packs = -(-x.shape[1] // (32 * lane))
    return [("T", x.dtype), ("V", lane), ("PACKS", packs), ("SG", _WARPS)]


def _check(
    x: mx.array, weight: mx.array, bias: mx.array, added: mx.array | None
) -> None:
    if added is not None and (x.ndim != 3 or added.shape != (x.shape[0], x.shape[2])):
        raise ValueError(
            "[layer_norm] added must be [B, D] of x [B, L, D], "
            f"got {list(added.shape)} and {list(x.shape)}."
        )
    if weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"[layer_norm] weight and bias must be [D] = {list(x.shape[-1:])}, "
            f"got {list(weight.shape)} and {list(bias.shape)}."
        )
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[layer_norm] x must be a float array, got {x.dtype}.")

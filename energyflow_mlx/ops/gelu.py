"""Exact GELU on a GPU: one pass over memory, forward and backward.

Outside ``mx.compile`` MLX takes a pass for every operation of the formula, about five
forward and fourteen backward. The CPU has a rational form of its own in
``nn.activations``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import (
    FLOAT_DTYPES,
    Backend,
    KernelSpec,
    features_per_lane,
    launch,
    resolve,
)

FORWARD = KernelSpec("gelu_forward", ("x",), ("y",), "gelu", "forward")
BACKWARD = KernelSpec("gelu_backward", ("x", "g"), ("gx",), "gelu", "backward")

_GROUP = 256  # threads a group
_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)


def gelu(x: mx.array, *, backend: Backend = "auto") -> mx.array:
    """Multiply by the normal distribution function: ``x (1 + erf(x / sqrt(2))) / 2``.

    Args:
        x: Any shape; float32, float16 or bfloat16.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Same shape and dtype as ``x``; the arithmetic is float32.

    Raises:
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[gelu] x must be a float array, got {x.dtype}.")
    chosen = resolve(backend, "gelu")
    if chosen == "reference" or x.size == 0:
        return gelu_reference(x)
    return _gelu_on(chosen)(x.reshape(-1)).reshape(x.shape)


def gelu_reference(x: mx.array) -> mx.array:
    """Plain MLX form of ``gelu``; the specification of its kernels."""
    wide = x.astype(mx.float32)
    return (0.5 * wide * (1.0 + mx.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def _slope(x: mx.array, g: mx.array) -> mx.array:
    """Plain form of the backward kernel."""
    wide = x.astype(mx.float32)
    share = 0.5 + 0.5 * mx.erf(wide * math.sqrt(0.5))
    slope = share + wide * (_DENSITY * mx.exp(-0.5 * wide * wide))
    return (slope * g.astype(mx.float32)).astype(x.dtype)


def _run(spec: KernelSpec, arrays: Sequence[mx.array], backend: str) -> mx.array:
    x = arrays[0]
    lane = features_per_lane(x.dtype, backend)
    threads = -(-x.size // lane)
    (y,) = launch(
        spec,
        arrays,
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
        grid=(threads, 1, 1),
        threadgroup=(min(_GROUP, threads), 1, 1),
        template=[("T", x.dtype), ("V", lane)],
        backend=backend,
    )
    return y


@cache
def _gelu_on(backend: str) -> Callable[[mx.array], mx.array]:
    """GELU of ``[N]`` on a kernel, with its gradient."""

    @mx.custom_function
    def forward(x: mx.array) -> mx.array:
        return _run(FORWARD, [x], backend)

    @forward.vjp
    def forward_vjp(x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        return _slope_on(backend)(x, cotangent.astype(x.dtype))

    return forward


@cache
def _slope_on(backend: str) -> Callable[[mx.array, mx.array], mx.array]:
    """``_slope`` on a kernel; its own gradient is that of the plain form."""

    @mx.custom_function
    def backward(x: mx.array, g: mx.array) -> mx.array:
        return _run(BACKWARD, [x, g], backend)

    @backward.vjp
    def backward_vjp(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array]:
        _, (gx, gg) = mx.vjp(_slope, list(primals), [cotangent])
        return gx, gg

    return backward

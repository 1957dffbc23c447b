"""GELU in its exact and its tanh form, with a gradient of its own in each.

    exact:  y = x (1 + erf(x / sqrt(2))) / 2
    tanh:   y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2. Outside ``mx.compile``
MLX takes a pass over memory for every operation of a formula, about five forward and
fourteen backward: a kernel takes one each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, get_args

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

Form = Literal["exact", "tanh"]

FORWARD = KernelSpec("gelu", "forward", inputs=("x",), outputs=("y",))
BACKWARD = KernelSpec("gelu", "backward", inputs=("x", "g"), outputs=("gx",))

_GROUP = 256  # threads a group
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def gelu(x: mx.array, form: Form = "exact", *, backend: Backend = "auto") -> mx.array:
    """GELU; absolute error below 2e-6 in float32, value and gradient.

    Args:
        x: Any shape; float32, float16 or bfloat16.
        form: ``"exact"`` or ``"tanh"``; see the module for their formulas.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Same shape and dtype as ``x``; the arithmetic is float32.

    Raises:
        ValueError: ``form`` is neither of the two.
        TypeError: ``x`` is not a floating dtype of the list above.
    """
    if form not in get_args(Form):
        names = " or ".join(get_args(Form))
        raise ValueError(f"[gelu] form must be {names}, got {form!r}.")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"[gelu] x must be a float array, got {x.dtype}.")
    chosen = resolve(backend, "gelu")
    if chosen == "reference" or x.size == 0:
        return gelu_reference(x, form)
    if chosen == "cpu":
        return _gelu_on(chosen, form)(x.astype(mx.float32)).astype(x.dtype)
    return _gelu_on(chosen, form)(x.reshape(-1)).reshape(x.shape)


def gelu_reference(x: mx.array, form: Form = "exact") -> mx.array:
    """Plain MLX form of ``gelu``; the specification of the others."""
    wide = x.astype(mx.float32)
    if form == "exact":
        share = 1.0 + mx.erf(wide * math.sqrt(0.5))
    else:
        share = 1.0 + mx.tanh(_SQRT_2_OVER_PI * (wide + _CUBIC * wide**3))
    return (0.5 * wide * share).astype(x.dtype)


def _with_gradient(
    value: Callable[[mx.array], mx.array],
    gradient: Callable[[mx.array, mx.array], mx.array],
) -> Callable[[mx.array], mx.array]:
    """Give ``value(x)`` the gradient ``gradient(x, g)``."""

    @mx.custom_function
    def forward(x: mx.array) -> mx.array:
        return value(x)

    @forward.vjp
    def forward_vjp(x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        return gradient(x, cotangent)

    return forward


@cache
def _gelu_on(backend: str, form: Form) -> Callable[[mx.array], mx.array]:
    """GELU on a kernel (``[N]`` on a GPU), with its gradient."""

    def forward(x: mx.array) -> mx.array:
        return _run(FORWARD, [x], form, backend)

    gradient = _gradient_on(backend, form)
    return _with_gradient(forward, lambda x, g: gradient(x, g.astype(x.dtype)))


@cache
def _gradient_on(backend: str, form: Form) -> Callable[..., mx.array]:
    """Gradient on a kernel; its own gradient is the reference's."""

    @mx.custom_function
    def backward(x: mx.array, g: mx.array) -> mx.array:
        return _run(BACKWARD, [x, g], form, backend)

    @backward.vjp
    def backward_vjp(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, ...]:
        def plain(x: mx.array, g: mx.array) -> Any:
            return mx.vjp(partial(gelu_reference, form=form), [x], [g])[1]

        return tuple(mx.vjp(plain, list(primals), [cotangent])[1])

    return backward


def _run(
    spec: KernelSpec, arrays: Sequence[mx.array], form: Form, backend: str
) -> mx.array:
    x = arrays[0]
    if backend == "cpu":
        sizes = [x.size, form == "tanh"]
        name = f"{spec.op}_{spec.part}"
        return native.launch(name, arrays, [(x.shape, x.dtype)], sizes)[0]
    lane = features_per_lane(x.dtype, backend)
    total = -(-x.size // lane)
    template = [("T", x.dtype), ("V", lane), ("TANH", form == "tanh")]
    threads = Threads(total, min(_GROUP, total), template)
    (y,) = launch(spec, arrays, [(x.shape, x.dtype)], threads, backend)
    return y

"""An operation's automatic form against its reference, forward and with gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import resolve

Function = Callable[..., mx.array]
MODES = ("forward", "forward+backward")


def way(function: Function, arrays: Sequence[mx.array], mode: str) -> timing.Call:
    """Call ``function`` on arrays, for its value or for gradients too."""
    cotangent = mx.random.normal(function(*arrays).shape, key=mx.random.key(1))
    mx.eval(cotangent)  # else it would be drawn again in every call

    def forward(*arrays: mx.array) -> list[mx.array]:
        return [function(*arrays)]

    def both(*arrays: mx.array) -> list[mx.array]:
        value, gradients = mx.vjp(function, list(arrays), [cotangent])
        return [*value, *gradients]

    compiled: Callable[..., Any] = mx.compile(forward if mode == MODES[0] else both)
    return lambda: compiled(*arrays)


def padded_mask(batch: int, length: int) -> mx.array:
    """Sentences of 4 to ``length`` tokens, 0.6 of it on average."""
    longest = mx.random.randint(4, int(1.2 * length) - 3, (batch, 1))
    return (mx.arange(length)[None] < longest).astype(mx.float32)


def compare(
    op: str,
    functions: tuple[Function, Function],
    arrays: Sequence[mx.array],
    mode: str,
    shape: str,
    rounds: int,
    **baselines: timing.Call,
) -> timing.Result:
    """Check one case, then time it.

    Args:
        op: The operation.
        functions: Its automatic form and its reference, functions of the arrays.
        arrays: Everything that has a gradient.
        mode: One of ``MODES``.
        shape: The case, readable.
        rounds: Samples of each way.
        baselines: Other ways, not checked.
    """
    mx.eval(arrays)
    result = timing.Result(op, mode, shape, "float32")
    candidate, plain = (way(f, arrays, mode) for f in functions)
    timing.require_close(op, candidate(), plain(), 1e-4)
    calls = {resolve("auto", op): candidate, "reference form": plain, **baselines}
    if resolve("auto", op) == "reference":
        del calls["reference form"]
    return timing.measure(result, calls, rounds=rounds)

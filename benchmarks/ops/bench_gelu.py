"""Is the GELU kernel as fast as memory, and faster than plain MLX?

    python benchmarks/ops/bench_gelu.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU the kernel reaches 70 % of the copy bandwidth measured
in the same run and beats the plain form, forward and forward+backward.

Bytes counted: forward reads one array and writes one, backward reads two and writes
one.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import gelu, resolve
from energyflow_mlx.ops.gelu import Form, gelu_reference

Way = Callable[..., Any]  # of (x, g)
PASSES = {"forward": 2, "forward+backward": 5}


def way(function: Callable[[mx.array], mx.array], mode: str) -> Way:
    """``(x, g) -> outputs`` of a mode."""
    if mode == "forward":
        return lambda x, g: [function(x)]

    def both(x: mx.array, g: mx.array) -> list[mx.array]:
        value, gradient = mx.vjp(function, [x], [g])
        return [*value, *gradient]

    return both


def case(
    shape: tuple[int, int], dtype: str, form: Form, mode: str, copy: float, rounds: int
) -> timing.Result:
    """Check, then time, one shape and form."""
    result = timing.Result("gelu", mode, "N{} H{} {}".format(*shape, form), dtype)
    x, g = (mx.random.normal(shape).astype(timing.DTYPES[dtype]) for _ in range(2))
    mx.eval(x, g)
    candidate, plain = (
        way(partial(f, form=form), mode) for f in (gelu, gelu_reference)
    )
    functions = {
        resolve("auto", "gelu"): mx.compile(candidate),
        "plain MLX compiled": mx.compile(plain),
        "plain MLX": plain,
    }
    expected = functions["plain MLX"](x, g)
    for name, function in functions.items():
        timing.require_close(name, function(x, g), expected, timing.TOLERANCE[dtype])
    del expected
    calls: dict[str, Any] = {n: lambda f=f: f(x, g) for n, f in functions.items()}
    calls[timing.COPY] = timing.copy_of(PASSES[mode] * x.nbytes)
    timing.measure(result, calls, rounds=rounds, ahead=True, held=2 * x.nbytes)
    timing.set_bandwidth(result, PASSES[mode] * x.nbytes, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**31 if large else 2**26) if rounds else 0.0
    report = timing.Report("gelu", args.output, copy_gb_s=round(copy))
    shape = (102400, 512) if large else (2000, 64)
    for choice in itertools.product(dtypes, get_args(Form), PASSES):
        report.add(case(shape, *choice, copy, rounds))
    report.close()


if __name__ == "__main__":
    main()

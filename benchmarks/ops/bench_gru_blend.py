"""Is the GRU blend kernel as fast as memory, and faster than plain MLX?

    python benchmarks/ops/bench_gru_blend.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU the kernel reaches 70 % of the copy bandwidth measured
in the same run and beats the compiled plain form, forward and forward+backward.

Bytes counted: forward reads what makes seven arrays of [N, H] and writes one; the
backward pass reads eight and writes seven. Biases and their gradients, under 1 %, are
left out.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import gru_blend, resolve

Way = Callable[..., Any]  # of (g, h, from_x, from_h, b, bhn)
PASSES = {"forward": 8, "forward+backward": 23}


def form(blend: Callable[..., mx.array], mode: str) -> Way:
    """``(g, h, ...) -> outputs`` of a mode."""
    if mode == "forward":
        return lambda g, *arrays: (blend(*arrays),)

    def both(g: mx.array, *arrays: mx.array) -> list[mx.array]:
        value, gradients = mx.vjp(blend, list(arrays), [g])
        return [*value, *gradients]

    return both


def ways(mode: str) -> dict[str, Way]:
    """Give the candidate and its baselines."""
    plain = form(partial(gru_blend, backend="reference"), mode)
    return {
        resolve("auto", "gru_blend"): mx.compile(form(gru_blend, mode)),
        "plain MLX compiled": mx.compile(plain),
        "plain MLX": plain,
    }


def case(
    shape: tuple[int, int], dtype: str, mode: str, copy: float, rounds: int
) -> timing.Result:
    """Check, then time, one shape."""
    result = timing.Result("gru_blend", mode, "N{} H{}".format(*shape), dtype)
    rows, width = shape
    gates = [(rows, 3 * width)] * 2
    shapes = [shape, shape, *gates, (3 * width,), (width,)]
    arrays = [mx.random.normal(s).astype(timing.DTYPES[dtype]) for s in shapes]
    mx.eval(arrays)
    functions = ways(mode)
    expected = functions["plain MLX compiled"](*arrays)
    for name, function in functions.items():
        tolerance = timing.TOLERANCE[dtype]
        timing.require_close(name, function(*arrays), expected, tolerance)
    del expected
    calls: dict[str, Any] = {n: lambda f=f: f(*arrays) for n, f in functions.items()}
    calls[timing.COPY] = timing.copy_of(PASSES[mode] * arrays[0].nbytes)
    held = (PASSES[mode] // 3) * arrays[0].nbytes
    timing.measure(result, calls, rounds=rounds, ahead=True, held=held)
    timing.set_bandwidth(result, PASSES[mode] * arrays[0].nbytes, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**31 if large else 2**26) if rounds else 0.0
    report = timing.Report("gru_blend", args.output, copy_gb_s=round(copy))
    shape = (102400, 512) if large else (2000, 64)
    for dtype, mode in itertools.product(dtypes, PASSES):
        report.add(case(shape, dtype, mode, copy, rounds))
    report.close()


if __name__ == "__main__":
    main()

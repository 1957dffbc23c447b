"""Is the layer norm as fast as memory, and faster than MLX's own?

    python benchmarks/ops/bench_layer_norm.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on any device forward and forward+backward, the gradients of the
weights included, take less time than ``mx.fast.layer_norm``.

Bytes counted: forward reads and writes the rows once; backward reads two arrays of
rows and writes one.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import layer_norm, resolve

PASSES = {"forward": 2, "forward+backward": 5}
EPS = 1e-5


def way(function: Callable[..., mx.array], mode: str) -> Callable[..., Any]:
    """``(x, weight, bias, g) -> outputs`` of a mode."""
    if mode == "forward":
        return lambda x, weight, bias, g: [function(x, weight, bias, EPS)]

    def both(*arrays: mx.array) -> list[mx.array]:
        *primals, g = arrays
        value, gradients = mx.vjp(lambda *a: function(*a, EPS), primals, [g])
        return [*value, *gradients]

    return both


def case(
    shape: tuple[int, int], dtype: str, mode: str, copy: float, rounds: int
) -> timing.Result:
    """Check, then time, one shape."""
    result = timing.Result("layer_norm", mode, "N{} D{}".format(*shape), dtype)
    kind, width = timing.DTYPES[dtype], shape[1]
    shapes = (shape, (width,), (width,), shape)
    arrays = [mx.random.normal(s).astype(kind) for s in shapes]
    mx.eval(arrays)
    plain = partial(layer_norm, backend="reference")
    functions = {
        resolve("auto", "layer_norm"): mx.compile(way(layer_norm, mode)),
        "mx.fast compiled": mx.compile(way(plain, mode)),
    }
    expected = way(plain, mode)(*[a.astype(mx.float32) for a in arrays])
    limit = 2 * timing.TOLERANCE[dtype]
    found = functions[resolve("auto", "layer_norm")](*arrays)
    timing.require_close("layer_norm", found, expected, limit)
    calls: dict[str, Any] = {n: lambda f=f: f(*arrays) for n, f in functions.items()}
    timing.measure(result, calls, rounds=rounds, ahead=True, held=2 * arrays[0].nbytes)
    timing.set_bandwidth(result, PASSES[mode] * arrays[0].nbytes, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**31 if large else 2**26) if rounds else 0.0
    report = timing.Report("layer_norm", args.output, copy_gb_s=round(copy))
    shapes = [(12288, 384), (1536, 384), (102400, 768)] if large else [(600, 64)]
    for choice in itertools.product(shapes, dtypes, PASSES):
        report.add(case(*choice, copy, rounds))
    report.close()


if __name__ == "__main__":
    main()

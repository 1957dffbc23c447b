"""Is the chunked cross entropy cheaper than logits, softmax and library loss?

    python benchmarks/ops/bench_linear_cross_entropy.py [--quick] [--rounds N]
        [--output FILE]

Claims it would refute: forward and backward take less time than the plain form and
than ``mlx.nn.losses.cross_entropy``; on a GPU, in a half format, at most 1.5 times the
four products alone, with no more memory than the logits and their gradient in that
format. On a CPU: at most 1.5 times the products.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import mlx.nn as nn
import timing

from energyflow_mlx.ops import linear_cross_entropy, resolve

Sum = Callable[..., mx.array]


def library(
    h: mx.array, weight: mx.array, bias: mx.array, target: mx.array, count: mx.array
) -> mx.array:
    """Whole logits in the format of h, and the library's loss of them."""
    logits = mx.addmm(bias.astype(h.dtype), h, weight.astype(h.dtype).T)
    return (nn.losses.cross_entropy(logits.astype(mx.float32), target) * count).sum()


def step(function: Sum) -> Callable[..., list[mx.array]]:
    """Value and the three gradients, compiled."""

    @mx.compile
    def both(*arrays: mx.array) -> list[mx.array]:
        value, gradients = mx.value_and_grad(function, argnums=(0, 1, 2))(*arrays)
        return [value, *gradients]

    return both


def products(h: mx.array, weight: mx.array) -> Callable[[], Any]:
    """Three products over the vocabulary, on arrays that are there."""
    matrix = weight.astype(h.dtype)
    slopes = (mx.random.normal((h.shape[0], weight.shape[0])) / 100).astype(h.dtype)
    mx.eval(matrix, slopes)
    return lambda: [h @ matrix.T, slopes @ matrix, slopes.T @ h]


def case(size: tuple[int, int, int], dtype: str, rounds: int) -> timing.Result:
    """Check, then time, one size."""
    mx.random.seed(0)
    rows, width, vocabulary = size
    h = mx.random.normal((rows, width)).astype(timing.DTYPES[dtype])
    weight = mx.random.normal((vocabulary, width)) * 0.05
    target = mx.random.randint(0, vocabulary, (rows,))
    arrays = (h, weight, mx.zeros(vocabulary), target, mx.ones(rows))
    mx.eval(arrays)
    ours = resolve("auto", "linear_cross_entropy")
    ways = {
        ours: step(linear_cross_entropy),
        "plain": step(partial(linear_cross_entropy, backend="reference")),
        "mlx.nn": step(library),
    }
    expected = ways["plain"](*arrays)
    limit = 2 * timing.TOLERANCE[dtype] if dtype != "float32" else 5e-3
    timing.require_close("value", ways[ours](*arrays), expected, limit)
    del expected
    calls: dict[str, Any] = {n: lambda w=w: w(*arrays) for n, w in ways.items()}
    calls["products alone"] = products(h, weight)
    shape = f"N{rows} D{width} V{vocabulary}"
    result = timing.Result("linear_cross_entropy", "forward+backward", shape, dtype)
    held = 4 * weight.nbytes + rows * vocabulary * 12
    return timing.measure(result, calls, rounds=rounds, ahead=True, held=held)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    report = timing.Report("linear_cross_entropy", args.output)
    sizes = [(900, 384, 5394), (900, 384, 11215)]
    if large:
        sizes = [(6656, 384, 6585), (6656, 384, 30522), (6656, 384, 2048)]
    if args.quick:
        sizes = [(96, 64, 701)]
    for size, dtype in itertools.product(sizes, dtypes):
        report.add(case(size, dtype, rounds))
    report.close()


if __name__ == "__main__":
    main()

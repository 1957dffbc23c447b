"""Is the embedding's gradient cheaper than the atomic additions of MLX's gather?

    python benchmarks/ops/bench_embedding.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU, forward+backward of ids that occur as words do (a third
of them padding) take at most the time of the plain form in float32, and a tenth of it
in a half format, sorting included.

Bytes counted: forward reads and writes every row once; the gradient reads them and
writes the table.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np
import timing

from energyflow_mlx.ops import embedding, resolve

Way = Callable[..., Any]  # of (table, ids, g)


def gathered(table: mx.array, ids: mx.array) -> mx.array:
    """Rows as MLX gathers them, with its gradient."""
    return table[ids]


def token_ids(rows: int, count: int) -> mx.array:
    """Ids of a Zipf distribution, and a third of padding."""
    random = np.random.default_rng(0)
    share = 1.0 / (np.arange(rows) + 2.7)
    ids = random.choice(rows, count, p=share / share.sum())
    ids[random.random(count) < 1 / 3] = 0
    return mx.array(ids.astype(np.int32))


def way(function: Callable[..., mx.array], mode: str) -> Way:
    """``(table, ids, g) -> outputs`` of a mode."""
    if mode == "forward":
        return lambda table, ids, g: [function(table, ids)]

    def both(table: mx.array, ids: mx.array, g: mx.array) -> list[mx.array]:
        value, gradient = mx.vjp(lambda t: function(t, ids), [table], [g])
        return [*value, *gradient]

    return both


def case(
    size: tuple[int, int, int], dtype: str, mode: str, copy: float, rounds: int
) -> timing.Result:
    """Check, then time, one size."""
    rows, width, count = size
    result = timing.Result("embedding", mode, f"R{rows} D{width} N{count}", dtype)
    kind = timing.DTYPES[dtype]
    table = mx.random.normal((rows, width)).astype(kind)
    ids, g = token_ids(rows, count), mx.random.normal((count, width)).astype(kind)
    mx.eval(table, ids, g)
    functions = {
        resolve("auto", "embedding"): mx.compile(way(embedding, mode)),
        "MLX gather compiled": mx.compile(way(gathered, mode)),
    }
    plain = way(partial(embedding, backend="reference"), mode)
    expected = plain(table, ids, g)
    timing.require_close(
        "embedding",
        functions[resolve("auto", "embedding")](table, ids, g),
        expected,
        timing.TOLERANCE[dtype],
    )
    calls: dict[str, Any] = {
        n: lambda f=f: f(table, ids, g) for n, f in functions.items()
    }
    if mode == "forward+backward":
        calls["sorting alone"] = lambda: mx.argsort(ids)
    passes = 2 * g.nbytes
    moved = passes if mode == "forward" else passes + g.nbytes + table.nbytes
    timing.measure(result, calls, rounds=rounds, ahead=True, held=moved)
    timing.set_bandwidth(result, moved, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**31 if large else 2**26) if rounds else 0.0
    report = timing.Report("embedding", args.output, copy_gb_s=round(copy))
    sizes = [(6585, 384, 512 * 24), (30522, 384, 512 * 24), (6585, 384, 64 * 24)]
    if args.quick:
        sizes = [(500, 64, 640)]
    for choice in itertools.product(sizes, dtypes, ("forward", "forward+backward")):
        report.add(case(*choice, copy, rounds))
    report.close()


if __name__ == "__main__":
    main()

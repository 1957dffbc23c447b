"""Does a layer norm of its own pay on the CPU?

    python benchmarks/ops/bench_layer_norm.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a CPU the native form, forward and backward, takes at most
a third of the time of the compiled reference.
"""

from functools import partial

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing
from forms import MODES, Function, compare

from energyflow_mlx.ops import layer_norm
from energyflow_mlx.ops.layer_norm import layer_norm_reference


def case(batch: int, length: int, dim: int, mode: str, rounds: int) -> timing.Result:
    """Check, then time, one shape."""
    x = mx.random.normal((batch, length, dim))
    arrays = [x, mx.ones(dim), mx.zeros(dim), mx.random.normal((batch, dim))]

    def call(function: Function, *arrays: mx.array) -> mx.array:
        return function(*arrays[:3], 1e-5, arrays[3])

    functions = (partial(call, layer_norm), partial(call, layer_norm_reference))
    shape = f"B{batch} L{length} D{dim}"
    return compare("layer_norm", functions, arrays, mode, shape, rounds)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__ or "")
    rounds = timing.rounds_of(args, 3 if args.quick else 9)
    mx.random.seed(0)
    report = timing.Report("layer_norm", args.output)
    sizes = (16, 12, 64) if args.quick else (256, 24, 384)
    for mode in MODES:
        report.add(case(*sizes, mode, rounds))
    report.close()


if __name__ == "__main__":
    main()

"""Is the field read faster as a kernel than in plain MLX?

    python benchmarks/ops/bench_field_read.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU forward+backward is faster than the compiled plain form
for the flows of ``lattice=experiment`` and a medium of 6 x 6 x 6 cells.
"""

import itertools
from functools import partial

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing
from forms import MODES, Function, compare

from energyflow_mlx.ops import field_read
from energyflow_mlx.ops.field_read import field_read_reference


def case(batch: int, flows: int, cells: int, mode: str, rounds: int) -> timing.Result:
    """Check, then time, one shape; a third of the flows is dead."""
    position = mx.random.uniform(-1, 1, (batch, flows, 3))
    alive = mx.random.bernoulli(2 / 3, (batch, flows))
    arrays = [mx.random.normal((batch, cells, cells, cells, 2)), position]

    def call(function: Function, field: mx.array, position: mx.array) -> mx.array:
        return function(field, position, alive)

    functions = (partial(call, field_read), partial(call, field_read_reference))
    shape = f"B{batch} F{flows} N{cells}"
    return compare("field_read", functions, arrays, mode, shape, rounds)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__ or "")
    rounds = timing.rounds_of(args, 3 if args.quick else 9)
    mx.random.seed(0)
    report = timing.Report("field_read", args.output)
    sizes = (16, 3136) if timing.on_gpu() and not args.quick else (8, 400)
    for cells, mode in itertools.product((6, 16), MODES):
        report.add(case(*sizes, cells, mode, rounds))
    report.close()


if __name__ == "__main__":
    main()

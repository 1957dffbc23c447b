"""Does the AdamW kernel take its seven passes over memory at the copy's speed?

    python benchmarks/ops/bench_adamw.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a CPU one pass over parameter, gradient and moments beats the
plain form, compiled or not, for a whole parameter and for a quarter of a table's rows.

Bytes counted: parameter and both moments are read and written, the gradient is read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import resolve
from energyflow_mlx.ops.adamw import Adamw, Constants, Rates, adamw, adamw_rows

CONSTANTS = Constants((0.9, 0.999), 1e-8, 0.01)
MODES = ("whole", "quarter of the rows")


def case(rows: int, width: int, mode: str, copy: float, rounds: int) -> timing.Result:
    """Check, then time, one table."""
    result = timing.Result("adamw", mode, f"V{rows} D{width}", "float32")
    p, m, v = (mx.random.normal((rows, width)) for _ in range(3))
    state = Adamw(p, m, mx.square(v), mx.array(3.0))
    rates = Rates(mx.array(0.5), mx.array(1e-3), mx.array(True))
    touched = rows if mode == "whole" else rows // 4
    gradient = mx.random.normal((touched, width))
    index = mx.random.permutation(rows)[:touched].astype(mx.int32)
    mx.eval(state, rates, gradient, index)

    def run(backend: Any) -> Any:
        if mode == "whole":
            return adamw(state, gradient, rates, CONSTANTS, backend=backend)
        ones = mx.ones(touched)
        return adamw_rows(
            state, gradient, index, ones, rates, CONSTANTS, backend=backend
        )

    plain = partial(run, "reference")
    functions: dict[str, Callable[[], Any]] = {
        resolve("auto", "adamw"): partial(run, "auto"),
        "plain MLX compiled": mx.compile(plain),
        "plain MLX": plain,
    }
    expected = functions["plain MLX"]()
    for name, function in functions.items():
        timing.require_close(name, function(), expected, timing.TOLERANCE["float32"])
    del expected
    # The caller holds the tables, so rows are written into a copy of them.
    passes = 7 * p.nbytes if mode == "whole" else 6 * p.nbytes + 7 * gradient.nbytes
    calls: dict[str, Any] = dict(functions)
    calls[timing.COPY] = timing.copy_of(passes)
    timing.measure(result, calls, rounds=rounds, ahead=True, held=4 * p.nbytes)
    timing.set_bandwidth(result, passes, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**28) if rounds else 0.0
    report = timing.Report("adamw", args.output, copy_gb_s=round(copy))
    rows, width = (500, 64) if args.quick else (6585, 384)
    for mode in MODES:
        report.add(case(rows, width, mode, copy, rounds))
    report.close()


if __name__ == "__main__":
    main()

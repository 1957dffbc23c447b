"""Does the decoder's input pay as one operation on the real tokens?

    python benchmarks/ops/bench_covered_tokens.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a CPU the native form, forward and backward, takes at most
0.7 of the time of the compiled reference.
"""

from functools import partial

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing
from forms import MODES, Function, compare, padded_mask

from energyflow_mlx.ops import covered_tokens
from energyflow_mlx.ops.covered_tokens import covered_tokens_reference


def case(batch: int, length: int, dim: int, mode: str, rounds: int) -> timing.Result:
    """Check, then time, one shape."""
    mask = padded_mask(batch, length)
    arrays = [mx.random.normal((batch, length, dim)), mx.random.normal((batch, dim))]
    arrays += [mx.random.normal((dim, dim), scale=dim**-0.5), mx.zeros(dim)]

    def call(function: Function, tokens: mx.array, *rest: mx.array) -> mx.array:
        return function(tokens, mask, *rest)

    functions = (partial(call, covered_tokens), partial(call, covered_tokens_reference))
    shape = f"B{batch} L{length} D{dim}"
    return compare("covered_tokens", functions, arrays, mode, shape, rounds)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__ or "")
    rounds = timing.rounds_of(args, 3 if args.quick else 9)
    mx.random.seed(0)
    report = timing.Report("covered_tokens", args.output)
    sizes = (16, 12, 64) if args.quick else (256, 24, 384)
    for mode in MODES:
        report.add(case(*sizes, mode, rounds))
    report.close()


if __name__ == "__main__":
    main()

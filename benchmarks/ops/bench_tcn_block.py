"""What does a TCN block cost beside its matrix products, and does packing pay?

    python benchmarks/ops/bench_tcn_block.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: on a CPU, the native block, forward and backward, takes at most
1.3 times its matrix products on the real tokens alone, and at most 0.7 times the block
composed of the other operations.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing
from forms import MODES, compare, padded_mask

from energyflow_mlx.ops import tcn_block
from energyflow_mlx.ops.tcn_block import BlockWeights, tcn_block_reference


def weights(dim: int, hidden: int, kernel_size: int) -> BlockWeights:
    """Random weights of the scale of a trained block."""
    fan_in = kernel_size * dim
    return BlockWeights(
        mx.ones(dim),
        mx.zeros(dim),
        mx.random.normal((hidden, kernel_size, dim), scale=fan_in**-0.5),
        mx.zeros(hidden),
        mx.random.normal((dim, hidden), scale=hidden**-0.5),
        mx.zeros(dim),
    )


def products(rows: int, block: BlockWeights, mode: str) -> Callable[[], Any]:
    """Form the block's matrix products on arrays of the right shapes."""
    hidden, kernel_size, dim = block.conv1_weight.shape
    columns = mx.random.normal((rows, kernel_size * dim))
    inner, outer = mx.random.normal((rows, hidden)), mx.random.normal((rows, dim))
    w1, w2 = block.conv1_weight.reshape(hidden, -1), block.conv2_weight
    mx.eval(columns, inner, outer, w1, w2)
    if mode == MODES[0]:
        return lambda: [columns @ w1.T, inner @ w2.T]
    return lambda: [
        columns @ w1.T,
        inner @ w1,
        inner.T @ columns,
        inner @ w2.T,
        outer @ w2,
        outer.T @ inner,
    ]


def case(
    sizes: tuple[int, int, int, int], causal: bool, mode: str, rounds: int
) -> timing.Result:
    """Check, then time, one block on padded sentences."""
    batch, length, dim, hidden = sizes
    mask, block = padded_mask(batch, length), weights(dim, hidden, 3)
    tokens = int(mask.sum().item())
    x = mx.random.normal((batch, length, dim)) * mask[..., None]

    def call(function: Callable[..., mx.array], x: mx.array, *w: mx.array) -> mx.array:
        return function(x, mask, BlockWeights(*w), dilation=2, causal=causal)

    return compare(
        "tcn_block",
        (partial(call, tcn_block), partial(call, tcn_block_reference)),
        [x, *block],
        mode,
        f"B{batch} L{length} D{dim} H{hidden} K3 {tokens} tokens"
        f"{'' if causal else ' centred'}",
        rounds,
        products=products(tokens, block, mode),
    )


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__ or "")
    rounds = timing.rounds_of(args, 3 if args.quick else 9)
    mx.random.seed(0)
    report = timing.Report("tcn_block", args.output)
    sizes = (16, 12, 64, 96) if args.quick else (256, 24, 384, 512)
    for causal in (True, False):
        for mode in MODES:
            report.add(case(sizes, causal, mode, rounds))
    report.close()


if __name__ == "__main__":
    main()

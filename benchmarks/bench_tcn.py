"""What does a TCN block cost beside its matrix products, and its GELU per element?

    python benchmarks/bench_tcn.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: on a CPU, GELU forward and backward take at most a third of
``mlx.nn.gelu``; the compiled block, forward and backward, takes at most twice the time
of its matrix products and less than the same block with ``mlx.nn.gelu``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.tcn import BlockWeights, TCNBlock, tcn_branch
from energyflow_mlx.ops import gelu

Activation = Callable[[mx.array], mx.array]


def gelu_step(form: Activation) -> Callable[[mx.array], Any]:
    """Value and gradient of a sum over GELU."""
    return mx.compile(mx.value_and_grad(lambda x: mx.sum(form(x) * x)))


def block_step(form: Activation, dilation: int) -> Callable[..., Any]:
    """Value and gradients of the block, for its input and its six tensors."""

    def loss(x: mx.array, mask: mx.array, *weights: mx.array) -> mx.array:
        branch = tcn_branch(
            x,
            mask,
            BlockWeights(*weights),
            None,
            dilation=dilation,
            causal=True,
            gelu=form,
        )
        return mx.sum(mx.square((x + branch) * mask[..., None]))

    return mx.compile(mx.value_and_grad(loss, argnums=(0, 2, 3, 4, 5, 6, 7)))


def products(rows: int, dim: int, hidden: int, kernel_size: int) -> Callable[[], Any]:
    """Form the block's six matrix products on arrays of the right shapes."""
    columns = mx.random.normal((rows, kernel_size * dim))
    inner, outer = mx.random.normal((rows, hidden)), mx.random.normal((rows, dim))
    w1 = mx.random.normal((hidden, kernel_size * dim))
    w2 = mx.random.normal((dim, hidden))
    mx.eval(columns, inner, outer, w1, w2)
    return lambda: [
        columns @ w1.T,
        inner @ w1,
        inner.T @ columns,
        inner @ w2.T,
        outer @ w2,
        outer.T @ inner,
    ]


def gelu_case(rows: int, hidden: int, rounds: int) -> timing.Result:
    """Compare the GELU forms on ``[rows, hidden]``."""
    x = mx.random.normal((rows, hidden))
    ours, library = gelu_step(gelu), gelu_step(nn.gelu)
    timing.require_close("gelu", _flat(ours(x)), _flat(library(x)), 1e-5)
    result = timing.Result("gelu", "forward+backward", f"[{rows}, {hidden}]", "float32")
    calls = {"package": lambda: ours(x), "mlx.nn": lambda: library(x)}
    timing.measure(result, calls, rounds=rounds)
    nanoseconds = timing.candidate_ms(result) * 1e6 / (rows * hidden)
    result.achieved = {"ns/element": round(nanoseconds, 2)}
    return result


def block_case(
    batch: int, length: int, dim: int, hidden: int, rounds: int
) -> timing.Result:
    """Compare the block with its products and with the library's GELU."""
    block = TCNBlock(dim, hidden, 3, 2, causal=True, dropout=0.0, gelu="exact")
    x, mask = mx.random.normal((batch, length, dim)), mx.ones((batch, length))
    inputs = (x, mask, *block.weights())
    mx.eval(inputs)
    ours, library = block_step(gelu, 2), block_step(nn.gelu, 2)
    timing.require_close("block", _flat(ours(*inputs)), _flat(library(*inputs)), 1e-4)
    shape = f"B {batch} L {length} D {dim} H {hidden} K 3"
    result = timing.Result("tcn_block", "forward+backward", shape, "float32")
    calls = {
        "package": lambda: ours(*inputs),
        "with mlx.nn.gelu": lambda: library(*inputs),
        "products alone": products(batch * length, dim, hidden, 3),
    }
    return timing.measure(result, calls, rounds=rounds)


def _flat(result: tuple[mx.array, Any]) -> list[mx.array]:
    value, gradients = result
    return [value, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def main() -> None:
    """Measure, show, write."""
    arguments = timing.arguments(__doc__ or "")
    rounds = arguments.rounds or (3 if arguments.quick else 15)
    mx.random.seed(0)
    if arguments.quick:
        results = [gelu_case(64, 128, rounds), block_case(4, 16, 64, 96, rounds)]
    else:
        results = [
            gelu_case(1024, 512, rounds),
            block_case(64, 16, 384, 512, rounds),
            block_case(64, 64, 384, 512, rounds),
        ]
    for result in results:
        timing.show(result)
    timing.finish("tcn", results, arguments.output)


if __name__ == "__main__":
    main()

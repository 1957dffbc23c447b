"""Is our cross entropy cheaper than MLX's, and what is it beside the products?

    python benchmarks/bench_cross_entropy.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: on a CPU, forward and backward from given logits take at most
half the time of ``mlx.nn.losses.cross_entropy``; with the output layer's matrix
products included they are faster too.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.losses import cross_entropy

Loss = Callable[[mx.array, mx.array], mx.array]


def products_only(logits: mx.array, targets: mx.array) -> mx.array:
    """Stand in for a loss that costs next to nothing: one pass each way."""
    return mx.sum(logits * 1e-3, axis=-1)


def from_logits(loss: Loss) -> Callable[..., Any]:
    """Loss and gradient for the logits."""
    return mx.compile(mx.value_and_grad(lambda z, t: mx.mean(loss(z, t))))


def from_features(loss: Loss) -> Callable[..., Any]:
    """Loss and gradients through the output layer."""

    def total(h: mx.array, weight: mx.array, bias: mx.array, t: mx.array) -> mx.array:
        return mx.mean(loss(mx.addmm(bias, h, weight.T), t))

    return mx.compile(mx.value_and_grad(total, argnums=(0, 1, 2)))


def flat(result: tuple[mx.array, Any]) -> list[mx.array]:
    """Put the value and one or several gradients into one list."""
    value, gradients = result
    return [value, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def case(n: int, width: int, vocab: int, rounds: int) -> list[timing.Result]:
    """Compare results, then times, at one size."""
    mx.random.seed(0)
    h = mx.random.normal((n, width))
    weight = mx.random.normal((vocab, width)) * 0.05
    bias = mx.zeros(vocab)
    targets = mx.random.randint(0, vocab, (n,))
    logits = mx.addmm(bias, h, weight.T)
    mx.eval(h, weight, bias, targets, logits)
    results = []
    for mode, build, arguments in (
        ("loss only", from_logits, (logits, targets)),
        ("with output layer", from_features, (h, weight, bias, targets)),
    ):
        ways = {
            "package": build(cross_entropy),
            "mlx.nn": build(nn.losses.cross_entropy),
        }
        found, expected = (flat(way(*arguments)) for way in ways.values())
        timing.require_close(mode, found, expected, 1e-5)
        if mode != "loss only":
            ways["products alone"] = build(products_only)
        calls = {
            name: lambda way=way, arguments=arguments: way(*arguments)
            for name, way in ways.items()
        }
        shape = f"[{n}, {width}] x [{vocab}, {width}]"
        result = timing.Result("cross_entropy", mode, shape, "float32")
        results.append(timing.measure(result, calls, rounds=rounds))
    return results


def main() -> None:
    """Measure, show, write."""
    arguments = timing.arguments(__doc__ or "")
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    sizes = (
        [(96, 64, 701)] if arguments.quick else [(900, 384, 5394), (900, 384, 11215)]
    )
    results = [r for n, d, v in sizes for r in case(n, d, v, rounds)]
    for result in results:
        timing.show(result)
    timing.finish("cross_entropy", results, arguments.output)


if __name__ == "__main__":
    main()

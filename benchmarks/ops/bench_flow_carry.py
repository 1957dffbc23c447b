"""How near do neuron and carrier of a lattice step come to their matrix products?

    python benchmarks/ops/bench_flow_carry.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a CPU the native form does its products at half the rate of
one large product or more, forward and forward+backward, and takes at most half the
time of the compiled plain form.

Operations counted: two for each weight of the matrices and flow, three times that with
the backward pass.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing
from mlx.utils import tree_flatten

from energyflow_mlx.config.lattice import CarrierConfig, LatticeConfig
from energyflow_mlx.lattice.dynamics import FlowStep
from energyflow_mlx.ops import resolve
from energyflow_mlx.ops.flow_carry import CarryWeights, flow_carry

Way = Callable[..., list[mx.array]]
MODES = {"forward": 1, "forward+backward": 3}
TOLERANCE = 1e-4


def form(backend: str, mode: str, weights: CarryWeights) -> Way:
    """``(position, energy, memory, *states) -> outputs`` of a mode."""

    def forward(weights: CarryWeights, *flows: mx.array) -> list[mx.array]:
        found = flow_carry(*flows[:3], flows[3:], weights, backend=backend)
        return [found.out, *found.states]

    if mode == "forward":
        return partial(forward, weights)

    def loss(weights: CarryWeights, *flows: mx.array) -> mx.array:
        return sum((a**2).sum() for a in forward(weights, *flows))

    def both(*flows: mx.array) -> list[mx.array]:
        everything = tuple(range(1 + len(flows)))
        value, found = mx.value_and_grad(loss, everything)(weights, *flows)
        return [value, *(a for _, a in tree_flatten(found))]

    return both


def case(shape: tuple[int, int], mode: str, rate: float, rounds: int) -> timing.Result:
    """Check, then time, one shape."""
    rows, width = shape
    result = timing.Result("flow_carry", mode, f"N{rows} H{width}", "float32")
    config = LatticeConfig(carrier=CarrierConfig(hidden=width))
    weights = FlowStep(config).fused()
    flows = [mx.random.uniform(-1, 1, (rows, 3)), mx.random.normal((rows,))]
    flows.append(mx.random.uniform(-1, 1, (rows, 15)))
    flows += [mx.random.uniform(-1, 1, shape) for _ in weights.cells]
    mx.eval(flows, weights)
    functions = {
        resolve("auto", "flow_carry"): mx.compile(form("auto", mode, weights)),
        "plain MLX compiled": mx.compile(form("reference", mode, weights)),
    }
    expected = functions["plain MLX compiled"](*flows)
    for name, function in functions.items():
        timing.require_close(name, function(*flows), expected, TOLERANCE)
    del expected
    calls: dict[str, Any] = {n: lambda f=f: f(*flows) for n, f in functions.items()}
    timing.measure(result, calls, rounds=rounds)
    sizes = [a.size for _, a in tree_flatten(weights) if a.ndim == 2]
    timing.set_flops(result, 2 * rows * sum(sizes) * MODES[mode], rate)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    rounds = timing.rounds_of(args, 9)
    rate = timing.matmul_rate(mx.float32, 1024) if rounds else 0.0
    report = timing.Report("flow_carry", args.output, matmul_gflops=round(rate))
    shapes = [(800, 128)] if args.quick else [(800, 128), (12800, 128)]
    for shape, mode in itertools.product(shapes, MODES):
        report.add(case(shape, mode, rate, rounds))
    report.close()


if __name__ == "__main__":
    main()

"""How fast is the lattice, and how near to its matrix products?

    python benchmarks/bench_lattice.py [--preset debug] [--batch 32] [--output FILE]
    python benchmarks/bench_lattice.py --preset experiment --batch 96
        --no-baselines --no-growth [--dtype bfloat16 --set carrier.gru_float32=false]

Claims it would refute: on two CPU cores the debug preset at batch 32 takes at most
0.6 s forward and 2.5 s forward+backward; the cost grows no faster than batch, flows
and steps. On a GPU the experiment preset does its matrix products at
30 % of the rate of one large product in the same dtype. The forward pass is that of
evaluation, step by step; forward+backward is one graph, as in training.
One step of 100,000 flows takes as many Python calls as one of 1,000: none is per flow.
The baseline is the same mathematics in plain MLX, uncompiled; ``peers/`` has PyTorch.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
from lattice_plain import OVERRIDES, plain_mlx
from lattice_presets import read_preset
from mlx.utils import tree_flatten, tree_map

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.solve import StepRunner
from energyflow_mlx.lattice.state import FlowState, launch

VALUE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 5e-3
MODES = ("forward", "forward+backward")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="debug")
    parser.add_argument(
        "--set", nargs="*", default=[], help="group.key=value overrides"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--dtype", choices=tuple(timing.DTYPES), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="batch 2, two rounds")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument(
        "--uncompiled",
        action="store_true",
        help="as with trainer.compile=false: nothing is compiled",
    )
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch, arguments.rounds = 2, 2
    return arguments


def products(config: LatticeConfig, dim: int, batch: int) -> int:
    """Operations of the matrix products of one forward pass.

    Only those that are needed: the first step has no recurrent products, and linear
    layers with nothing between them count as one.
    """
    carrier = config.carrier
    c, rows = carrier.hidden, batch * config.slots
    inputs = [carrier.neuron_features + 1] + [c] * (carrier.layers - 1)
    neuron = 4 * carrier.neuron_hidden + carrier.neuron_hidden**2
    neuron += carrier.neuron_hidden * carrier.neuron_features
    heads = c * (c + 15) + c * (c // 2 + 64) + c // 2 + 3 * 64
    step = neuron + sum(3 * c * i for i in inputs) + heads
    recurrent = 3 * c * c * carrier.layers
    flows = rows * (config.total_steps * (step + recurrent) - recurrent)
    lattice = EnergyLattice(config, dim)
    ends = [*lattice.mapper.stack.layers, *lattice.collector.stack.layers]
    return 2 * (flows + batch * sum(layer.weight.size for layer in ends))


def make(config: LatticeConfig, dim: int, dtype: mx.Dtype) -> EnergyLattice:
    """A lattice whose displacement head is awake."""
    mx.random.seed(0)
    lattice = EnergyLattice(config, dim)
    layer = lattice.flow.carrier.move_out
    layer.weight = 0.1 * mx.random.normal(layer.weight.shape)
    lattice.update(tree_map(lambda a: a.astype(dtype), lattice.parameters()))
    lattice.eval()
    mx.eval(lattice.parameters())
    return lattice


def passes(
    lattice: EnergyLattice, forward: Callable[[mx.array], mx.array], wrap: Any
) -> dict[str, Callable[[mx.array], Any]]:
    """Both modes of a forward pass; gradients are those of the mean square."""

    def vector_of(params: Any, v: mx.array) -> mx.array:
        lattice.update(params)
        return forward(v)

    def loss_of(params: Any, v: mx.array) -> mx.array:
        return (vector_of(params, v) ** 2).mean()

    calls = wrap(vector_of), wrap(mx.value_and_grad(loss_of))
    params = lattice.trainable_parameters()

    def call(function: Any, v: mx.array) -> Any:
        found = function(params, v)
        lattice.update(params)
        return found

    return {
        mode: lambda v, f=function: call(f, v)
        for mode, function in zip(MODES, calls, strict=True)
    }


def own_passes(lattice: EnergyLattice) -> dict[str, Callable[[mx.array], Any]]:
    """The lattice as evaluation and training run it."""

    def forward(v: mx.array) -> mx.array:
        return lattice(v).vector

    return passes(lattice, forward, mx.compile) | {MODES[0]: forward}


def check(ways: dict[str, Any], v: mx.array) -> None:
    """Refuse to time a way that gives other vectors or gradients."""
    ours, plain = ways["lattice"], ways["plain MLX"]
    value, grads = ours["forward"](v), ours["forward+backward"](v)[1]
    timing.require_close("plain", [plain["forward"](v)], [value], VALUE_TOLERANCE)
    theirs = plain["forward+backward"](v)[1]
    expected = dict(tree_flatten(grads))
    pairs = [(a, expected[name]) for name, a in tree_flatten(theirs)]
    timing.require_close(
        "plain gradient", *zip(*pairs, strict=False), GRADIENT_TOLERANCE
    )


def compare(arguments: argparse.Namespace, rate: float) -> list[timing.Result]:
    """The preset against its baselines."""
    config = read_preset(arguments.preset, [*OVERRIDES, *arguments.set])
    dtype = timing.DTYPES[arguments.dtype]
    lattice = make(config, arguments.dim, dtype)
    v = mx.random.normal((arguments.batch, arguments.dim))
    ways = {"lattice": own_passes(lattice)}
    if not arguments.no_baselines:
        plain = passes(lattice, lambda v: plain_mlx(lattice, v), lambda f: f)
        ways["plain MLX"] = plain
        check(ways, v)
    results = []
    for mode in MODES:
        calls = {name: partial(way[mode], v) for name, way in ways.items()}
        shape = f"{arguments.preset} B{arguments.batch} F{config.slots}"
        shape += f" T{config.total_steps}"
        result = timing.Result("lattice", mode, shape, arguments.dtype)
        timing.measure(result, calls, rounds=arguments.rounds)
        results.append(rated(result, config, arguments.dim, arguments.batch, rate))
    return results


def rated(
    result: timing.Result, config: LatticeConfig, dim: int, batch: int, rate: float
) -> timing.Result:
    """Add operations a second, the floor they set, and flows x steps a second."""
    work = products(config, dim, batch) * (1 if result.mode == "forward" else 3)
    timing.set_flops(result, work, rate)
    seconds = timing.candidate_ms(result) / 1e3
    travelled = batch * config.slots * config.total_steps
    result.achieved["floor_ms"] = round(work / rate / 1e6, 1)
    result.achieved["flow_steps_per_s"] = round(travelled / seconds)
    result.achieved["peak_MiB"] = round(result.peak_bytes / 2**20)
    return timing.show(result)


def growth(arguments: argparse.Namespace, rate: float) -> list[timing.Result]:
    """Cost of one more sample, flow and step: each doubled alone, small channels."""
    batch = max(1, arguments.batch // 4)
    base = {"batch": batch, "width": 20, "steps": 4}
    cases = [base, *({**base, name: 2 * size} for name, size in base.items())]
    results = []
    for case in cases:
        config = read_preset(
            arguments.preset,
            [*OVERRIDES, "cube.height=20", f"cube.width={case['width']}"]
            + [f"cube.steps={case['steps']}", "carrier.hidden=128", "carrier.layers=2"],
        )
        dtype = timing.DTYPES[arguments.dtype]
        lattice = make(config, arguments.dim, dtype)
        v = mx.random.normal((case["batch"], arguments.dim))
        way = own_passes(lattice)
        shape = " ".join(f"{name} {size}" for name, size in case.items())
        result = timing.Result("lattice growth", MODES[1], shape, arguments.dtype)
        call = {"lattice": lambda w=way, v=v: w[MODES[1]](v)}
        timing.measure(result, call, rounds=arguments.rounds)
        results.append(rated(result, config, arguments.dim, case["batch"], rate))
    return results


def one_step(arguments: argparse.Namespace) -> list[timing.Result]:
    """One step of up to 100,000 flows of the debug preset, with its Python calls."""
    results = []
    config = read_preset("debug", [*OVERRIDES, "cube.max_active_flows=100000"])
    size = (config.cube.height, config.cube.width)
    for flows in (1200, 10000, 100000):
        lattice = make(config, arguments.dim, mx.float32)
        surface = mx.random.normal((flows // config.slots, *size))
        lattice.flow.eval()
        take = StepRunner(lattice.flow, config)
        state = take(launch(config, surface), 0, scale=1.0, noise=None)
        mx.eval(tuple(state))

        def step(take: StepRunner = take, state: FlowState = state) -> FlowState:
            return take(state, 1, scale=1.0, noise=None)

        result = timing.Result(
            "one lattice step", "forward", f"{flows} flows", "float32"
        )
        timing.measure(result, {"lattice": step}, rounds=arguments.rounds)
        seconds = timing.candidate_ms(result) / 1e3
        result.achieved["flow_steps_per_s"] = round(flows / seconds)
        result.achieved["python_calls"] = python_calls(step)
        results.append(timing.show(result))
    return results


def python_calls(function: Callable[[], Any]) -> int:
    """Python and C functions entered while ``function`` runs."""
    entered = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal entered
        entered += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered


def main() -> None:
    """Measure and report."""
    arguments = parse()
    if arguments.uncompiled:
        mx.disable_compile()
    rate = timing.matmul_rate(
        timing.DTYPES[arguments.dtype], 8192 if timing.on_gpu() else 1024
    )
    print(f"matrix products run at {rate:.0f} GFLOP/s here")
    results = compare(arguments, rate)
    if not arguments.no_growth:
        results += growth(arguments, rate) + one_step(arguments)
    timing.finish("lattice", results, arguments.output, matmul_gflops=round(rate))


if __name__ == "__main__":
    main()

"""Which GRU should the lattice use: its own cell, or MLX's layer one step at a time?

    python benchmarks/bench_gru.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: one step of the own cell over many rows is faster than
``mlx.nn.GRU`` over a sequence of one, forward and forward+backward; the own layer
over a sequence is no slower than ``mlx.nn.GRU``. Both are compiled.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from energyflow_mlx.nn.gru import GRU, GRUCell

MODES = ("forward", "forward+backward")


def one_step(layer: nn.GRU, x: mx.array, h: mx.array) -> mx.array:
    """One step of MLX's layer: a sequence of length one."""
    return layer(x[:, None], h)[:, 0]


def passes(
    layer: nn.Module, forward: Callable[..., mx.array], *inputs: mx.array
) -> dict[str, Callable[[], Any]]:
    """Both modes of a layer, compiled; gradients for weights and inputs."""

    def value_of(params: Any, *inputs: mx.array) -> mx.array:
        layer.update(params)
        return forward(*inputs)

    def loss_of(params: Any, *inputs: mx.array) -> mx.array:
        return (value_of(params, *inputs) ** 2).sum()

    places = tuple(range(1 + len(inputs)))
    params = layer.parameters()
    mx.eval(params, inputs)
    calls = mx.compile(value_of), mx.compile(mx.grad(loss_of, argnums=places))
    return {
        mode: partial(call, params, *inputs)
        for mode, call in zip(MODES, calls, strict=True)
    }


def compare(
    name: str, shape: str, work: int, ways: dict[str, Any], setting: tuple[float, int]
) -> list[timing.Result]:
    """Check the ways against each other, then time them."""
    rate, rounds = setting
    results = []
    for mode in MODES:
        calls = {way: modes[mode] for way, modes in ways.items()}
        ours, theirs = (flat(call()) for call in calls.values())
        timing.require_close(f"{name} {mode}", ours, theirs, 2e-5)
        result = timing.Result(name, mode, shape, "float32")
        timing.measure(result, calls, rounds=rounds)
        share = 1 if mode == "forward" else 3
        timing.set_flops(result, share * work, rate)
        results.append(timing.show(result))
    return results


def flat(found: Any) -> list[mx.array]:
    """The arrays of a result; both layers name their weights alike."""
    leaves = dict(tree_flatten(found)) if isinstance(found, tuple) else {"": found}
    return [leaves[name] for name in sorted(leaves)]


def step_case(n: int, d: int, h: int, setting: tuple[float, int]) -> Any:
    """One step over ``n`` rows."""
    cell, layer = GRUCell(d, h), nn.GRU(d, h)
    layer.update(cell.parameters())
    x, state = mx.random.normal((n, d)), mx.random.uniform(-1, 1, (n, h))
    ways = {
        "own cell": passes(cell, cell, x, state),
        "mlx.nn.GRU": passes(layer, partial(one_step, layer), x, state),
    }
    work = 2 * n * 3 * h * (d + h)
    return compare("gru step", f"N{n} D{d} H{h}", work, ways, setting)


def sequence_case(
    n: int, length: int, d: int, h: int, setting: tuple[float, int]
) -> Any:
    """A sequence of ``length`` steps."""
    own, layer = GRU(d, h), nn.GRU(d, h)
    layer.update(own.cell.parameters())
    x, state = mx.random.normal((n, length, d)), mx.random.uniform(-1, 1, (n, h))
    ways = {
        "own layer": passes(own.cell, own, x, state),
        "mlx.nn.GRU": passes(layer, layer, x, state),
    }
    work = 2 * n * length * 3 * h * (d + h)
    return compare("gru sequence", f"N{n} L{length} D{d} H{h}", work, ways, setting)


def main() -> None:
    """Measure and report."""
    arguments = timing.arguments((__doc__ or "").splitlines()[0])
    rounds = arguments.rounds or (2 if arguments.quick else 7)
    rate = timing.matmul_rate(mx.float32, 4096 if timing.on_gpu() else 1024)
    setting = (rate, rounds)
    rows = 512 if arguments.quick else 12_800
    results = step_case(rows, 65, 256, setting) + step_case(rows, 256, 256, setting)
    results += sequence_case(rows // 16, 8, 128, 256, setting)
    timing.finish("gru", results, arguments.output, matmul_gflops=round(rate))


if __name__ == "__main__":
    main()

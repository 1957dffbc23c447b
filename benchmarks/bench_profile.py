"""Where does one training step spend its time, and does it fill large arrays?

    python benchmarks/bench_profile.py [--updates N] [--batch B] [--output FILE]

One page on the default model on built-in captions: step time, its parts, the dearest
layers, operations of its graph, traces and memory, measured as the command ``profile``
of the package does it for a run. Claims it would refute: an update of A or B fills no
array as large as a weight matrix ``[D, D]`` with zeros or another value, not even
before fusing; each objective is traced once for each shape.
"""

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
from bench_overlap import make_trainer
from graph_fills import Shape, fills_of, large

from energyflow_mlx.runtime import jit_headers
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.profiling import describe, profile_updates

Fills = dict[str, tuple[Counter[Shape], int]]


def fills_by_objective(trainer: Trainer) -> Fills:
    """Fills of one update of each objective: of our code by shape, and of MLX."""
    found: Fills = {}
    state = trainer.stepper.state
    mx.eval(state.arrays())
    with closing(trainer.feed.updates(0)) as feed:
        for step in range(trainer.steps_per_epoch):
            (batch,) = next(feed)
            name = trainer.alternation.objective_of(step)
            if name in found:
                continue

            def build(name: str = name, batch: Any = batch) -> list[mx.array]:
                key = mx.random.key(0)
                report = trainer.stepper.update(name, batch, key, 1e-3)
                return [*report.values(), *trainer.stepper.arrays()]

            found[name] = fills_of(build)
            trainer.stepper.restore(state)
            if len(found) == len(trainer.objectives):
                return found
    return found


def show_fills(fills: Fills, limit: int) -> int:
    """Print the fills; the number of large ones, those of unknown size included."""
    count = 0
    for name, (shapes, unknown) in fills.items():
        listed = ", ".join(f"{n} x {list(shape)}" for shape, n in shapes.items())
        text = f"{listed or 'none'}; of gradients, size unknown: {unknown}"
        print(f"{name + ': fills':28} {text}")
        count += large(shapes, limit) + unknown
    print(f"{'large fills':28} {count} of {limit} numbers and more, or of unknown size")
    return count


def figures_of(report: dict[str, Any], count: int) -> dict[str, Any]:
    """What the suite compares."""
    step, memory = report["step_ms"], report["memory_bytes"]
    figures = {
        "step": {"unit": "ms", "spread": [step["median"]] * 2 + [step["p90"]]},
        "peak memory": timing.figure("bytes", [memory["peak"]]),
        "large fills": timing.figure("count", [count]),
    }
    for name, traced in report["compiled"]["traces"].items():
        figures[f"traces of {name}"] = timing.figure("count", [traced])
    for name, kinds in report["operations"].items():
        figures[f"operations of {name}"] = timing.figure("count", [kinds["all"]])
    return figures


def main() -> None:
    """Profile, look for fills, show, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=0, help="0 = the default model")
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    jit_headers.prepare()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(arguments, Path(folder))
        report = profile_updates(trainer, arguments.updates)
        for name, text in describe(report):
            print(f"{name:28} {text}")
        limit = trainer.config.encoder.dim**2
        fills = fills_by_objective(trainer)
    count = show_fills(fills, limit)
    shapes = len(report["compiled"]["batches"])
    traces = {
        name: count
        for name, count in report["compiled"]["traces"].items()
        if name.endswith("update") and count > shapes
    }
    extra = {
        "profile": report,
        "fills": {
            name: {"shapes": [*shapes.elements()], "of_gradients": unknown}
            for name, (shapes, unknown) in fills.items()
        },
        "figures": figures_of(report, count),
    }
    timing.finish("profile", [], arguments.output, **extra)
    if count or traces:
        raise SystemExit(
            f"{count} large fills; traced more than once a shape: {traces}"
        )


if __name__ == "__main__":
    main()

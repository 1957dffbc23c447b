"""How does the speed of training grow with batch, length, width and flows?

    python benchmarks/bench_throughput.py [--quick] [--rounds N] [--output FILE]

Times the distillation update of the default model for several batch sizes, lengths and
widths, and forward+backward of the lattice ``debug`` for several numbers of flows, in
turn. Refutes two claims: that the cost of an update is linear in its tokens, where a
line through the times has an R^2 below 0.98; and that an update has little fixed cost,
where the line's intercept is more than a third of the largest time.
``python -m benchmarks.suite.draw`` draws it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import numpy as np
from bench_lattice import MODES, make, own_passes
from lattice_plain import OVERRIDES
from lattice_presets import read_preset

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.runtime import device, jit_headers
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.token_rows import TokenRows, occurring_rows
from energyflow_mlx.training.update import Stepper

VOCABULARY, DIMENSION, WIDTH = 6585, 384, 384
BATCH, LENGTH, LATTICE_BATCH = 64, 24, 8  # where something else varies


class Sizes(NamedTuple):
    """What is varied, one thing at a time but batches and lengths."""

    batches: tuple[int, ...] = (32, 64, 128)
    lengths: tuple[int, ...] = (8, 12, 16, 24, 32)
    widths: tuple[int, ...] = (128, 256, 384, 512)
    sides: tuple[int, ...] = (10, 20, 28, 40)  # of the lattice's surface, in cells

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """Batch, length and width of every update."""
        for batch in self.batches:
            yield from ((batch, length, WIDTH) for length in self.lengths)
        yield from ((BATCH, LENGTH, w) for w in self.widths if w != WIDTH)


QUICK = Sizes((16, 64, 192), (8, 24, 48), (128, 512), (10, 20, 28))


def make_stepper(dtype: str, width: int) -> Stepper:
    """The default model of a width, with its distillation."""
    config = Config()
    config.precision.dtype = dtype
    config.encoder.dim, config.encoder.hidden = width, width * 4 // 3
    config.decoder.dim, config.decoder.hidden = width, width * 4 // 3
    config.encoder.embedding_init = config.decoder.embedding_init = "normal"
    config.objectives.reconstruction = None
    config.share = "none"
    objectives = build_objectives(config)
    model = build_model(config, parts_of(objectives), VOCABULARY, DIMENSION)
    model.train()
    return Stepper(model, config, list(objectives.values()))


def make_batch(size: int, length: int) -> StepBatch:
    """Sentences of one length, of tokens as frequent as words are (Zipf)."""
    rng = np.random.default_rng(size * 1000 + length)
    ids = (rng.zipf(1.2, (size, length)) % VOCABULARY).astype(np.int32)
    target = rng.normal(size=(size, DIMENSION)).astype(np.float32)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    host = Batch(ids, np.ones((size, length), np.float32), target)
    rows = occurring_rows(ids, VOCABULARY)
    on_device = TokenRows(*(None if a is None else mx.array(a) for a in rows))
    return StepBatch(*(mx.array(a) for a in host), on_device)


def update_of(stepper: Stepper, batch: StepBatch) -> Callable[[], None]:
    """One update, computed."""

    def update() -> None:
        report = stepper.update("distillation", batch, mx.random.key(0), 1e-4)
        mx.eval(report, stepper.arrays())

    return update


def lattice_of(side: int) -> tuple[int, Callable[[], None]]:
    """Flows of the lattice, and its forward+backward pass, computed."""
    changes = [f"cube.height={side}", f"cube.width={side}"]
    config = read_preset("debug", [*OVERRIDES, *changes])
    lattice = make(config, DIMENSION, mx.float32)
    v = mx.random.normal((LATTICE_BATCH, DIMENSION))
    both = own_passes(lattice)[MODES[1]]
    return config.slots, lambda: mx.eval(both(v))


def in_turn(
    calls: dict[Any, Callable[[], None]], rounds: int
) -> dict[Any, list[float]]:
    """Milliseconds of each call, one of each per round; the first is not counted."""
    times: dict[Any, list[float]] = {case: [] for case in calls}
    for repeat in range(rounds + 1):
        for case, call in calls.items():
            started = time.perf_counter()
            call()
            if repeat:
                times[case].append(1e3 * (time.perf_counter() - started))
    return times


def fit(tokens: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Least squares line through the medians, and its R^2."""
    slope, intercept = np.polyfit(tokens, times, 1)
    rest = times - (slope * tokens + intercept)
    r2 = 1.0 - np.sum(rest**2) / np.sum((times - times.mean()) ** 2)
    return {
        "slope_us_per_token": float(slope * 1e3),
        "intercept_ms": float(intercept),
        "r2": float(r2),
    }


def measure_steps(
    sizes: Sizes, dtype: str, rounds: int
) -> dict[tuple[int, int, int], list[float]]:
    """Milliseconds of an update of every batch, length and width."""
    widths = (WIDTH, *(w for w in sizes.widths if w != WIDTH))
    steppers = {width: make_stepper(dtype, width) for width in widths}
    calls = {
        case: update_of(steppers[case[2]], make_batch(*case[:2]))
        for case in sizes.steps()
    }
    return in_turn(calls, rounds)


def figures_of(
    steps: dict[tuple[int, int, int], list[float]], flows: dict[int, list[float]]
) -> dict[str, Any]:
    """Sentences and flows a second by case."""
    found = {}
    for (batch, length, width), times in steps.items():
        rates = [1e3 * batch / ms for ms in times]
        name = f"update B{batch} L{length} D{width}"
        found[name] = timing.figure("sentences/s", rates)
    for count, times in flows.items():
        rates = [1e3 * LATTICE_BATCH * count / ms for ms in times]
        found[f"lattice of {count} flows"] = timing.figure("flows/s", rates)
    return found


def main() -> None:
    """Measure in turn, fit, show, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--dtype", default=None, help="default: what is fast here")
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    jit_headers.prepare()
    dtype = arguments.dtype or device.fast_format()
    sizes = QUICK if arguments.quick else Sizes()
    steps = measure_steps(sizes, dtype, arguments.rounds)
    lattices = dict(lattice_of(side) for side in sizes.sides)
    figures = figures_of(steps, in_turn(lattices, arguments.rounds))
    for name, found in figures.items():
        low, middle, high = found["spread"]
        print(f"{name:28} {middle:9.1f} {found['unit']:12} [{low:.1f}, {high:.1f}]")
    of_width = {case: ms for case, ms in steps.items() if case[2] == WIDTH}
    tokens = np.array([batch * length for batch, length, _ in of_width], float)
    medians = np.array([np.median(ms) for ms in of_width.values()])
    line = fit(tokens, medians)
    print(
        f"time = {line['intercept_ms']:.2f} ms + {line['slope_us_per_token']:.2f} us "
        f"a token, R^2 = {line['r2']:.4f}"
    )
    extra = {"dtype": dtype, "command": " ".join(["python", *sys.argv]), **line}
    timing.finish("throughput", [], arguments.output, **extra, figures=figures)
    if line["r2"] < 0.98 or line["intercept_ms"] > medians.max() / 3:
        raise SystemExit("the cost is not linear in the tokens here")


if __name__ == "__main__":
    main()

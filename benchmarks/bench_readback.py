"""Does one evaluation per micro-batch train faster than reading at once?

    python benchmarks/bench_readback.py [--dim D] [--batch B] [--steps N]

The batch is TCN-heavy: six dilated blocks. ``build`` is the host's time to build the
graph (``overlapped`` also makes the next batch in it), ``sync`` the time to submit it
and to wait for values.

Claim it would refute: deferring every readback to one evaluation at the end of the
micro-batch is at least as fast as evaluating loss, gradients, norm, parameters and
optimizer state one after another (``immediate``), and starting the device before the
host prepares the next batch (``overlapped``) is faster than doing one after the other
(``deferred``). The three train the same TCN student on the same batches; their losses
are compared first, then their steps are timed in turn in one process.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from energyflow_mlx.build.model import build_encoder
from energyflow_mlx.config import Config
from energyflow_mlx.nn.losses import cosine
from energyflow_mlx.readback import Readback, ReadbackEngine

VOCABULARY, LENGTH, TEACHER = 5000, 32, 384
DILATIONS = [1, 2, 4, 8, 16, 32]  # six blocks: most of a step is TCN
NAMES, WARM_UP = ("immediate", "deferred", "overlapped"), 5


class Run:
    """One training run; the variants differ in when they evaluate."""

    def __init__(self, dim: int, batch: int) -> None:
        mx.random.seed(0)
        config = Config(share="none")
        config.encoder.dim, config.encoder.hidden = dim, 2 * dim
        config.encoder.dilations = DILATIONS
        self.model = build_encoder(config, VOCABULARY, TEACHER, is_bounded=False)
        self.optimizer = optim.AdamW(1e-3)
        self.optimizer.init(self.model.trainable_parameters())
        mx.eval(self.model, self.optimizer.state)
        self.loss_and_grad = nn.value_and_grad(self.model, self._loss)
        self.engine = ReadbackEngine()
        self.batches = batches(batch)
        self.next = next(self.batches)
        self.losses: list[float] = []
        self.parts: list[tuple[float, float]] = []  # build and sync of a step, ms

    def _loss(self, ids: mx.array, mask: mx.array, target: mx.array) -> mx.array:
        return 1 - cosine(self.model(ids, mask), target).mean()

    def immediate(self) -> None:
        """Evaluate every result as soon as it is there."""
        batch, self.next = self.next, next(self.batches)
        began = time.perf_counter()
        loss, grads = self.loss_and_grad(*map(mx.array, batch))
        built = time.perf_counter()
        self.losses.append(loss.item())
        mx.eval(grads)
        waited = time.perf_counter()
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        clipped = time.perf_counter()
        norm.item()
        read = time.perf_counter()
        self.optimizer.update(self.model, grads)
        updated = time.perf_counter()
        mx.eval(self.model.parameters())
        mx.eval(self.optimizer.state)
        build = (built - began) + (clipped - waited) + (updated - read)
        self.parts.append((1e3 * build, 1e3 * (time.perf_counter() - began - build)))

    def deferred(self) -> None:
        """One evaluation; the next batch is prepared before it."""
        batch, self.next = self.next, next(self.batches)
        with self.engine.batch("step"):
            loss = self._build(batch)
        self._landed(loss)

    def overlapped(self) -> None:
        """One evaluation; the next batch is prepared while the device works."""
        with self.engine.batch("step"):
            loss = self._build(self.next)
            self.engine.submit()
            self.next = next(self.batches)
        self._landed(loss)

    def _landed(self, loss: Readback) -> None:
        """Read the loss, note the times; submitting is part of waiting on a CPU."""
        self.losses.append(loss.value())
        timed = self.engine.last_timing
        assert timed is not None
        self.parts.append((timed.build_ms, timed.submit_ms + timed.sync_ms))

    def _build(self, batch: tuple[np.ndarray, ...]) -> Readback:
        loss, grads = self.loss_and_grad(*map(mx.array, batch))
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        self.optimizer.update(self.model, grads)
        self.engine.fence(self.model, self.optimizer.state)
        self.engine.defer("norm", norm)
        return self.engine.defer("loss", loss)


def batches(size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches with the host work of a real one: lengths, padding, target rows."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((4096, TEACHER)).astype(np.float32)
    while True:
        lengths = rng.integers(4, LENGTH + 1, size)
        ids = np.zeros((size, LENGTH), np.int32)
        for row, length in enumerate(lengths):
            ids[row, :length] = rng.integers(1, VOCABULARY, length)
        mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.float32)
        yield ids, mask, table[rng.integers(0, len(table), size)]


def main() -> None:
    """Compare the losses, then time the three, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    runs = {name: Run(options.dim, options.batch) for name in NAMES}
    steps = {name: getattr(run, name) for name, run in runs.items()}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times = time_in_turn(steps, options.steps)
    check_equal({name: run.losses for name, run in runs.items()})
    figures = figures_of(times, runs)
    show(figures)
    engine = runs["deferred"].engine
    assert engine.last_timing is not None
    extra = {
        "shape": [options.batch, LENGTH, options.dim],
        "figures": figures,
        "deferred_over_immediate": timing.spread(
            ratios(times["deferred"], times["immediate"])
        ),
        "overlapped_over_deferred": timing.spread(
            ratios(times["overlapped"], times["deferred"])
        ),
        "evaluations_per_step": engine.evaluations / (options.steps + WARM_UP),
        "peak_bytes": engine.last_timing.peak_bytes,
    }
    timing.finish("readback", [], None, **extra)


def figures_of(times: dict[str, list[float]], runs: dict[str, Run]) -> dict[str, Any]:
    """Time of a step, of building its graph and of waiting for values, by variant."""
    found = {}
    for name, run in runs.items():
        built, waited = zip(*run.parts[WARM_UP:], strict=True)
        found[f"{name}: step"] = timing.figure("ms", times[name])
        found[f"{name}: build"] = timing.figure("ms", list(built))
        found[f"{name}: sync"] = timing.figure("ms", list(waited))
    return found


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'':20}{'p20':>9}{'p50':>9}{'p80':>9}  ms")
    for name, found in figures.items():
        print(f"{name:20}" + "".join(f"{value:9.2f}" for value in found["spread"]))


def time_in_turn(
    steps: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each variant's steps, one of each per round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - started))
    return times


def check_equal(losses: dict[str, list[float]]) -> None:
    """Refuse to print speeds for runs that did not compute the same."""
    expected = losses["immediate"]
    for name, found in losses.items():
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)
    assert expected[-1] < expected[0], "the student must learn"


def ratios(times: list[float], baseline: list[float]) -> list[float]:
    """Ratio of each step to its neighbour in time."""
    return [t / b for t, b in zip(times, baseline, strict=True)]


if __name__ == "__main__":
    main()

"""Does one evaluation per micro-batch train faster than reading at once?

    python benchmarks/bench_readback.py [--dim D] [--batch B] [--steps N]

Claim it would refute: deferring every readback to one evaluation at the end of the
micro-batch is at least as fast as evaluating loss, gradients, norm, parameters and
optimizer state one after another (``immediate``), and starting the device before the
host prepares the next batch (``overlapped``) is faster than doing one after the other
(``deferred``). The three train the same TCN student on the same batches; their losses
are compared first, then their steps are timed in turn in one process.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from energyflow_mlx.build.model import build_encoder
from energyflow_mlx.config import Config
from energyflow_mlx.nn.losses import cosine
from energyflow_mlx.readback import Readback, ReadbackEngine
from energyflow_mlx.runtime import blas, device

VOCABULARY, LENGTH, TEACHER = 5000, 32, 384


class Run:
    """One training run; the variants differ in when they evaluate."""

    def __init__(self, dim: int, batch: int) -> None:
        mx.random.seed(0)
        config = Config(share="none")
        config.encoder.dim, config.encoder.hidden = dim, 2 * dim
        self.model = build_encoder(config, VOCABULARY, TEACHER, is_bounded=False)
        self.optimizer = optim.AdamW(1e-3)
        self.optimizer.init(self.model.trainable_parameters())
        mx.eval(self.model, self.optimizer.state)
        self.loss_and_grad = nn.value_and_grad(self.model, self._loss)
        self.engine = ReadbackEngine()
        self.batches = batches(batch)
        self.next = next(self.batches)
        self.losses: list[float] = []

    def _loss(self, ids: mx.array, mask: mx.array, target: mx.array) -> mx.array:
        return 1 - cosine(self.model(ids, mask), target).mean()

    def immediate(self) -> None:
        """Evaluate every result as soon as it is there."""
        batch, self.next = self.next, next(self.batches)
        loss, grads = self.loss_and_grad(*map(mx.array, batch))
        self.losses.append(loss.item())
        mx.eval(grads)
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        norm.item()
        self.optimizer.update(self.model, grads)
        mx.eval(self.model.parameters())
        mx.eval(self.optimizer.state)

    def deferred(self) -> None:
        """One evaluation; the next batch is prepared before it."""
        batch, self.next = self.next, next(self.batches)
        with self.engine.batch("step"):
            loss = self._build(batch)
        self.losses.append(loss.value())

    def overlapped(self) -> None:
        """One evaluation; the next batch is prepared while the device works."""
        with self.engine.batch("step"):
            loss = self._build(self.next)
            self.engine.submit()
            self.next = next(self.batches)
        self.losses.append(loss.value())

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    names = ("immediate", "deferred", "overlapped")
    runs = {name: Run(options.dim, options.batch) for name in names}
    steps = {name: getattr(run, name) for name, run in runs.items()}
    for step in steps.values():
        for _ in range(5):
            step()
    times = time_in_turn(steps, options.steps)
    check_equal({name: run.losses for name, run in runs.items()})
    evaluations = runs["deferred"].engine.evaluations / (options.steps + 5)
    info = device.describe()
    print(f"{info.name}, {info.backend}, MLX {info.mlx_version}, BLAS {blas.info()}")
    print(f"{'':12}{'p20':>9}{'p50':>9}{'p80':>9}  ms   time / immediate")
    for name in names:
        low, middle, high = quintiles(times[name])
        ratio = statistics.median(ratios(times[name], times["immediate"]))
        print(f"{name:12}{low:9.2f}{middle:9.2f}{high:9.2f}       {ratio:.3f}")
    overlap = ratios(times["overlapped"], times["deferred"])
    record = {
        "op": "readback",
        "backend": info.backend,
        "mode": "training step",
        "shape": [options.batch, LENGTH, options.dim],
        "dtype": "float32",
        "ms": {name: [round(t, 3) for t in quintiles(times[name])] for name in names},
        "deferred_over_immediate": spread(
            ratios(times["deferred"], times["immediate"])
        ),
        "overlapped_over_deferred": spread(overlap),
        "evaluations_per_step": evaluations,
        "peak_bytes": runs["deferred"].engine.last_timing.peak_bytes,
        "device": info.name,
        "mlx": info.mlx_version,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(record))


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


def quintiles(values: list[float]) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile."""
    cuts = statistics.quantiles(values, n=10)
    return cuts[1], statistics.median(values), cuts[7]


def spread(values: list[float]) -> list[float]:
    """Percentiles rounded for the record."""
    return [round(value, 3) for value in quintiles(values)]


def commit() -> str:
    """Short hash of the checkout, or nothing outside of one."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main()

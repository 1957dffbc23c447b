"""How long does training take to reach a quality, from nothing?

    python benchmarks/bench_quality.py [--updates N] [--goal COSINE] [--output FILE]

Trains a narrow encoder (width 128) on 1,500 built-in captions, as ``train`` does, and
notes the seconds of training at which the cosine with the teacher's vectors of held-out
captions passes each twentieth, in three equal runs. Refutes the claim that N updates
reach the goal.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx

from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics

CAPTIONS, WIDTH, BATCH, EVERY = 1500, 128, 64, 10


def make_config(folder: Path, updates: int) -> Config:
    """Distillation alone, validated every 10 updates."""
    config = Config(name="time to quality", share="none")
    config.objectives.reconstruction = None
    config.encoder.dim, config.encoder.hidden = WIDTH, 2 * WIDTH
    config.encoder.embedding_init = "normal"
    config.data.captions, config.data.buckets = CAPTIONS, [16, 24]
    config.data.max_length = 24
    config.trainer.micro_batch, config.trainer.max_steps = BATCH, updates
    config.trainer.validate_every = EVERY
    config.trainer.log_every, config.trainer.decode_samples = updates, 0
    config.trainer.best_metric = "cosine"
    config.objectives.distillation.lr = 3e-3
    config.optimizer.warmup_steps = EVERY
    config.run.dir = str(folder)
    return config


def train(updates: int) -> list[tuple[float, float]]:
    """Train once; seconds of training and held-out cosine, validation by validation."""
    mx.random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        summary = run(make_config(folder, updates))
        rows = read_metrics(RunFolder(folder).metrics)
    pace = summary["seconds"] / updates  # validating and saving left out
    found = [row for row in rows if row["kind"] == "validation"]
    return [(round(row["step"] * pace, 3), row["cosine"]) for row in found]


def seconds_to(curve: list[tuple[float, float]], goal: float) -> float | None:
    """Seconds of training when the cosine first reached a goal, None if never."""
    return next((seconds for seconds, cosine in curve if cosine >= goal), None)


def figures_of(curves: list[list[tuple[float, float]]], goal: float) -> dict[str, Any]:
    """Seconds to every twentieth from 0.4 up to the goal."""
    found = {}
    for level in (step / 20 for step in range(8, 20)):
        reached = [s for curve in curves if (s := seconds_to(curve, level)) is not None]
        if len(reached) == len(curves) and level <= goal:
            found[f"cosine {level}"] = timing.figure("s", reached)
    return found


def main() -> None:
    """Train, show, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--goal", type=float, default=0.65)
    parser.add_argument(
        "--rounds", type=int, default=3, help="equal runs, for the time"
    )
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        curves = [train(arguments.updates) for _ in range(arguments.rounds)]
    except InputError as error:
        timing.cannot_run("quality", str(error))
    for seconds, cosine in curves[-1]:
        print(f"{seconds:7.2f} s  cosine {cosine:.4f}")
    figures = figures_of(curves, arguments.goal)
    extra = {"curve": curves[-1], "updates": arguments.updates, "figures": figures}
    timing.finish("quality", [], arguments.output, **extra)
    if seconds_to(curves[-1], arguments.goal) is None:
        raise SystemExit(f"{arguments.updates} updates do not reach {arguments.goal}")


if __name__ == "__main__":
    main()

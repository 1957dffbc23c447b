"""How long does training take to reach a quality, from nothing?

    python benchmarks/bench_quality.py [--updates N] [--goal COSINE] [--output FILE]

Trains a narrow encoder (width 128) on 1,500 built-in captions, as ``train`` does, and
notes the seconds of training at which the cosine with the teacher's vectors of held-out
captions passes each twentieth. Refutes the claim that N updates reach the goal.
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

CAPTIONS, WIDTH, BATCH, EVERY = 1500, 128, 64, 20


def make_config(folder: Path, updates: int) -> Config:
    """Distillation alone, validated every 20 updates."""
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


def curve_of(folder: Path, pace: float) -> list[tuple[float, float]]:
    """Seconds of training and held-out cosine, validation by validation.

    Args:
        folder: Of the run.
        pace: Seconds of an update, validation and saving left out.
    """
    rows = read_metrics(RunFolder(folder).metrics)
    found = [row for row in rows if row["kind"] == "validation"]
    return [(round(row["step"] * pace, 3), row["cosine"]) for row in found]


def seconds_to(curve: list[tuple[float, float]], goal: float) -> float | None:
    """Seconds of training when the cosine first reached a goal, None if never."""
    return next((seconds for seconds, cosine in curve if cosine >= goal), None)


def figures_of(curve: list[tuple[float, float]], goal: float) -> dict[str, Any]:
    """Seconds to every twentieth up to the goal, and the cosine reached."""
    found = {}
    for step in range(6, 20):
        seconds = seconds_to(curve, step / 20)
        if seconds is not None and step / 20 <= goal:
            found[f"cosine {step / 20}"] = timing.figure("s", [seconds])
    return found


def main() -> None:
    """Train, show, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--goal", type=float, default=0.7)
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    mx.random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        try:
            summary = run(make_config(folder, arguments.updates))
        except InputError as error:
            timing.cannot_run("quality", str(error))
        curve = curve_of(folder, summary["seconds"] / arguments.updates)
    for seconds, cosine in curve:
        print(f"{seconds:7.1f} s  cosine {cosine:.4f}")
    extra = {"curve": curve, "updates": arguments.updates}
    figures = figures_of(curve, arguments.goal)
    timing.finish("quality", [], arguments.output, **extra, figures=figures)
    if seconds_to(curve, arguments.goal) is None:
        raise SystemExit(f"{arguments.updates} updates do not reach {arguments.goal}")


if __name__ == "__main__":
    main()

"""Is a run faster with one update in flight than with each waited for?

Run ``python benchmarks/bench_overlap.py [--dim N] [--batch N]``. Trains one small run
both ways in turn, ten updates at a time, and compares the time of an update; says how
long the host builds, submits and waits. Refutes the claim that overlapping pays where
the ratio is below 0.97, and that it changes nothing where the losses differ.
"""

import argparse
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import numpy as np

from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import build_trainer
from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime import blas, device, jit_headers
from energyflow_mlx.training.loop import Trainer

UPDATES = 10


def make_trainer(arguments: argparse.Namespace, folder: Path) -> Trainer:
    """A run of the default model, or a narrower one, on built-in captions."""
    config = Config()
    config.data.captions, config.data.buckets = 3000, [24]
    config.data.max_length = 24
    config.trainer.micro_batch = arguments.batch
    config.trainer.validate_every = 1 << 30
    config.trainer.max_steps = 1 << 20
    config.precision.dtype = device.fast_format()
    for part in (config.encoder, config.decoder):
        part.embedding_init = "normal"
        if arguments.dim:
            part.dim, part.hidden = arguments.dim, 2 * arguments.dim
    with RunDisplay() as display:
        objectives = build_objectives(config)
        return build_trainer(config, objectives, RunFolder(folder), display)


def one_round(trainer: Trainer, *, overlapped: bool) -> tuple[float, list[float]]:
    """Time of an update, ms, and the losses of ten from the present state."""
    steps = range(UPDATES)
    with closing(trainer.feed.updates(0)) as feed:
        started = time.perf_counter()
        if overlapped:
            values = list(trainer.landed(feed, steps))
        else:
            values = [trainer.run_update(step, next(feed)) for step in steps]
        elapsed = (time.perf_counter() - started) * 1e3 / UPDATES
    losses = [v for row in values for name, v in row.items() if name.endswith("loss")]
    return elapsed, losses


def main() -> None:
    """Check that both give the same losses, time them in turn, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=0, help="0 = the default model")
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    jit_headers.prepare()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(arguments, Path(folder))
        trainer.codec.model.train()
        one_round(trainer, overlapped=False)  # traces
        state = trainer.stepper.state
        losses = []
        for overlapped in (False, True):
            trainer.stepper.restore(state)
            losses.append(one_round(trainer, overlapped=overlapped)[1])
        if losses[0] != losses[1]:
            raise SystemExit("overlapped updates give other losses")
        host: dict[str, list[float]] = {}
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(arguments.rounds):
            for overlapped in (True, False) if number % 2 else (False, True):
                trainer.timings.take()
                times[overlapped].append(one_round(trainer, overlapped=overlapped)[0])
                for name, value in trainer.timings.take().items() if overlapped else ():
                    host.setdefault(name, []).append(value)
    ratios = np.array(times[False]) / np.array(times[True])
    samples = {"overlapped": times[True], "each waited for": times[False]}
    figures = {name: timing.figure("ms", found) for name, found in samples.items()}
    figures["peak memory"] = timing.figure("bytes", host.pop("peak_bytes"))
    for name, found in host.items():
        figures[f"host: {name.removesuffix('_ms')}"] = timing.figure("ms", found)
    for name, found in figures.items():
        print(f"{name:20} {found['spread'][1]:12.2f} {found['unit']}")
    print(f"{np.median(ratios):.3f} x  [{ratios.min():.3f}, {ratios.max():.3f}]")
    extra = {
        "blas": str(blas.info()),
        "command": " ".join(["python", *sys.argv]),
        "batch": arguments.batch,
        "dim": arguments.dim,
        "ratio": timing.spread([float(ratio) for ratio in ratios]),
        "figures": figures,
    }
    timing.finish("overlap", [], arguments.output, **extra)
    if np.median(ratios) < 0.97:
        raise SystemExit("overlapping does not pay here")


if __name__ == "__main__":
    main()

"""Is a run faster with one update in flight than with each waited for?

Run ``python benchmarks/bench_overlap.py [--dim N] [--batch N]``. Trains one small run
both ways in turn, ten updates at a time, and compares the time of an update; says how
long the host builds, submits and waits. Refutes the claim that overlapping pays where
the ratio is below 0.97, and that it changes nothing where the losses differ.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import numpy as np

from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import build_trainer
from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime import blas, device, jit_headers
from energyflow_mlx.runtime.atomic import write_text
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
        trainer.timings.take()
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(arguments.rounds):
            for overlapped in (True, False) if number % 2 else (False, True):
                times[overlapped].append(one_round(trainer, overlapped=overlapped)[0])
        host = trainer.timings.take()
    ratios = np.array(times[False]) / np.array(times[True])
    record = {
        "op": "overlap",
        "device": str(device.describe()),
        "blas": str(blas.info()),
        "command": " ".join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch": arguments.batch,
        "dim": arguments.dim,
        "overlapped_ms": float(np.median(times[True])),
        "alone_ms": float(np.median(times[False])),
        "ratio": [float(x) for x in np.percentile(ratios, [20, 50, 80])],
        "host": host,
    }
    print(
        f"alone {record['alone_ms']:.2f} ms, overlapped {record['overlapped_ms']:.2f} "
        f"ms, {np.median(ratios):.3f} x  [{ratios.min():.3f}, {ratios.max():.3f}]"
    )
    print(json.dumps(record))
    if arguments.output:
        write_text(arguments.output, json.dumps(record, indent=1) + "\n")
    if np.median(ratios) < 0.97:
        raise SystemExit("overlapping does not pay here")


if __name__ == "__main__":
    main()

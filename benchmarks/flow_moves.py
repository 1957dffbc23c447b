"""Do the learned moves matter? Runs with the displacement head trained and frozen.

    python benchmarks/flow_moves.py --vectors TRAIN.npy --held-out VAL.npy
        [--settings straight noise xavier carried] [--seeds 0 1 2] [--workers 1]

Every run is an ordinary ``+experiment=flow``; the two of a pair differ in
``lattice.motion.freeze`` alone. The settings:

straight  The defaults: flows start on straight paths, each from its own cell.
noise     Exploration noise of 0.1 per step that falls to 0 over the run.
xavier    The head starts at random weights: flows stray from the first update on.
carried   Mapper and collector are fixed, and the target is what the collector makes
          of the input surface moved by one column: only flows that move can do it.

Refuted when the frozen runs of a setting end as near to the target as the trained ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lattice_presets  # isort: skip  before mlx

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config, FlowConfig, objectives_type

CHANGES: dict[str, tuple[str, ...]] = {
    "straight": (),
    "noise": ("noise.sigma=0.1",),
    "xavier": ("motion.start=xavier",),
    "carried": (),
}
REPORTED = ("cosine", "flow_reached", "flow_covered", "flow_path", "flow_sideways")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="[N, E] .npy")
    parser.add_argument("--held-out", type=Path, required=True, help="[M, E] .npy")
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--settings", nargs="*", default=list(CHANGES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--teacher", default="minilm", help="supplies the tokenizer")
    parser.add_argument("--uncompiled", action="store_true", help="wanted on CUDA")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", nargs=3, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def configure(args: argparse.Namespace, setting: str, seed: int) -> Config:
    """``+experiment=flow`` on vectors, with the setting's overrides."""
    lattice = lattice_presets.read_preset(args.preset, CHANGES[setting])
    lattice.noise.steps = args.steps
    config = Config(name=f"{setting}-{seed}", seed=seed)
    config.objectives = objectives_type()(flow=FlowConfig(lr=1e-3))
    config.share, config.lattice = "none", lattice
    config.teacher.name = args.teacher
    config.data.train, config.data.val = [str(args.vectors)], [str(args.held_out)]
    config.data.val_limit = 320
    config.optimizer.weight_decay = 1e-5
    trainer = config.trainer
    trainer.micro_batch, trainer.decode_samples = 32, 0
    trainer.max_steps, trainer.validate_every = args.steps, max(1, args.steps // 3)
    trainer.log_every, trainer.keep = 100, 1
    trainer.compile = not args.uncompiled
    return config


def carry(config: Config, paths: list[Path], folder: Path) -> list[str]:
    """Write pairs: each vector, and what its surface moved by a column reads as."""
    rows = [np.load(path).astype(np.float32) for path in paths]
    parts = parts_of(build_objectives(config))
    model = build_model(config, parts, 0, rows[0].shape[1])
    model.eval()
    written = []
    for path, vectors in zip(paths, rows, strict=True):
        surface = model.lattice.mapper(mx.array(vectors))
        moved = mx.pad(surface[..., :-1], ((0, 0), (0, 0), (1, 0)))
        pairs = np.concatenate([vectors, model.lattice.collector(moved)], axis=1)
        np.save(folder / path.name, pairs)
        written.append(str(folder / path.name))
    return written


def train(args: argparse.Namespace, setting: str, seed: int, frozen: bool) -> None:
    """One run; its last metrics as a line of JSON."""
    from energyflow_mlx.build.run import run

    config = configure(args, setting, seed)
    with tempfile.TemporaryDirectory() as scratch:
        if setting == "carried":
            paths = carry(config, [args.vectors, args.held_out], Path(scratch))
            config.data.train, config.data.val = [paths[0]], [paths[1]]
            config.data.pairs, config.trainer.train = True, "flow"
        config.lattice.motion.freeze = frozen
        config.run.dir = str(Path(scratch) / "run")
        summary = run(config)
    final = {name: summary["final"][name] for name in REPORTED}
    print(json.dumps(final | {"seconds": summary["seconds"]}), flush=True)


def start(setting: str, seed: int, frozen: bool) -> subprocess.Popen:
    """A run in a process of its own."""
    command = [sys.executable, *sys.argv, "--one", setting, str(seed), str(int(frozen))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def train_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs, ``workers`` at a time; one record each."""
    waiting = [
        (setting, seed, frozen)
        for seed in args.seeds
        for setting in args.settings
        for frozen in (False, True)
    ]
    going: dict[tuple, subprocess.Popen] = {}
    records = []
    while waiting or going:
        while waiting and len(going) < args.workers:
            job = waiting.pop(0)
            going[job] = start(*job)
        for job in [
            job for job, process in going.items() if process.poll() is not None
        ]:
            process = going.pop(job)
            text = process.communicate()[0]
            if process.returncode:
                raise SystemExit(f"[flow_moves] the run {job} failed.")
            record = dict(zip(("setting", "seed", "frozen"), job, strict=True))
            records.append(record | json.loads(text.splitlines()[-1]))
            print(json.dumps(records[-1]), flush=True)
        time.sleep(0.5)
    return records


def summarise(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cosine of trained and frozen runs and their difference, seed by seed."""
    table = {}
    for setting in dict.fromkeys(r["setting"] for r in records):
        own = [r for r in records if r["setting"] == setting]
        seeds = sorted({r["seed"] for r in own})
        by_kind = [
            [
                next(r["cosine"] for r in own if r["seed"] == s and r["frozen"] == f)
                for s in seeds
            ]
            for f in (False, True)
        ]
        gain = [a - b for a, b in zip(*by_kind, strict=True)]
        table[setting] = {
            "trained": by_kind[0],
            "frozen": by_kind[1],
            "gain": gain,
            "mean_gain": sum(gain) / len(gain),
        }
        means = [sum(kind) / len(kind) for kind in by_kind]
        print(
            f"{setting:9s} trained {means[0]:.4f}  frozen {means[1]:.4f}  gain "
            f"{means[0] - means[1]:+.4f} ({min(gain):+.4f} to {max(gain):+.4f})"
        )
    return table


def main() -> None:
    """Train and report."""
    args = parse()
    if args.one:
        setting, seed, frozen = args.one
        train(args, setting, int(seed), bool(int(frozen)))
        return
    records = train_all(args)
    record = {
        "benchmark": "flow_moves",
        "command": " ".join(["python", *sys.argv]),
        "device": str(mx.default_device()),
        "mlx": mx.__version__,
        "summary": summarise(records),
        "runs": records,
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

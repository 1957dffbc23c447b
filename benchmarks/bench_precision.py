"""Do half formats with float32 masters train what float32 trains?

    python benchmarks/bench_precision.py [--updates N] [--only ab flow] [--output FILE]

Trains the small sizes below from one seed in float32, bfloat16 and float16, on built-in
captions. Claim it would refute: after N updates every figure is finite, and the cosine
of held-out captions is within 0.005 of float32's.
"""

import argparse
import logging
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics

ALLOWED = 0.005
FORMATS = ("float32", "bfloat16", "float16")
SIZES = {
    "ab": [
        *("encoder.dim=64", "encoder.hidden=96", "token_rows.candidates=256"),
        *("decoder.dim=64", "decoder.hidden=96", "data.max_length=32"),
    ],
    "flow": [
        *("lattice.cube.width=15", "lattice.cube.height=15", "lattice.cube.depth=6"),
        *("lattice.carrier.hidden=16", "lattice.carrier.neuron_hidden=16"),
        "lattice.carrier.neuron_features=16",
    ],
}


def make_config(experiment: str, dtype: str, updates: int, folder: Path) -> Config:
    """An experiment in a small size."""
    words = [
        *(f"+experiment={experiment}", f"precision.dtype={dtype}", *SIZES[experiment]),
        *("data.captions=2000", "trainer.micro_batch=16", "trainer.decode_samples=0"),
        *(f"trainer.max_steps={updates}", f"trainer.validate_every={updates}"),
        *("trainer.follow_samples=0", "trainer.log_every=1", f"run.dir={folder}"),
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_FOLDER)):
        config = OmegaConf.to_object(compose("config", overrides=words))
    assert isinstance(config, Config)
    return config


def train(experiment: str, dtype: str, updates: int) -> dict[str, Any]:
    """Train once; what was measured at the end, and what half precision did."""
    with tempfile.TemporaryDirectory() as scratch:
        config = make_config(experiment, dtype, updates, Path(scratch) / "run")
        summary = run(config)
        folder = RunFolder(Path(scratch) / "run")
        rows = read_metrics(folder.metrics)
        last = folder.latest()
        assert last is not None
        scale = float(np.array(last.arrays["scale.scale"]))
    norms = [v for row in rows for k, v in row.items() if k.endswith("grad_norm")]
    measured = [row for row in rows if row["kind"] == "validation"][-1]
    numbers = [v for v in measured.values() if isinstance(v, float)]
    return {
        "cosine": measured["cosine"],
        "ce": measured.get("ce"),
        "is_finite": all(map(math.isfinite, numbers)),
        "skipped": sum(not math.isfinite(norm) for norm in norms),
        "loss_scale": scale,
        "seconds": summary["seconds"],
    }


def far_off(found: dict[str, dict[str, Any]]) -> list[str]:
    """Formats of one experiment that are not what float32 is."""
    exact = found["float32"]["cosine"]
    return [
        dtype
        for dtype, got in found.items()
        # Written so that NaN is far off.
        if not (got["is_finite"] and abs(got["cosine"] - exact) <= ALLOWED)
    ]


def main() -> None:
    """Train, show, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    register()
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for experiment in arguments.only:
        try:
            runs[experiment] = {
                dtype: train(experiment, dtype, arguments.updates) for dtype in FORMATS
            }
        except InputError as error:
            timing.cannot_run("precision", str(error))
    figures = {}
    for experiment, found in runs.items():
        exact = found["float32"]["cosine"]
        for dtype, got in found.items():
            print(
                f"{experiment:5} {dtype:9} cosine {got['cosine']:.4f}  from float32 "
                f"{got['cosine'] - exact:+.4f}  skipped {got['skipped']}  "
                f"loss scale {got['loss_scale']:g}  {got['seconds']:.1f} s"
            )
            figures[f"{experiment} {dtype}"] = timing.figure("s", [got["seconds"]])
    extra = {"updates": arguments.updates, "runs": runs, "figures": figures}
    timing.finish("precision", [], arguments.output, **extra)
    wrong = [f"{name} {dtype}" for name in runs for dtype in far_off(runs[name])]
    if wrong:
        raise SystemExit(f"not within {ALLOWED} of float32: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

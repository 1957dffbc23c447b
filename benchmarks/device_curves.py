"""Does the same training give the same curve on each device?

Run ``python benchmarks/device_curves.py --output FOLDER``.

Trains the small model on built-in captions for 50 updates on every backend that MLX has
here, in float32 and from equal weights and batches, draws the loss curves over each
other and stores them. Refutes the claim that devices agree where a loss differs from
the CPU's by more than 2 % (their sums round in other orders).
"""

import argparse
import json
import tempfile
from pathlib import Path

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np
from matplotlib.figure import Figure

from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config
from energyflow_mlx.plots.pictures import save
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime import device
from energyflow_mlx.runtime.atomic import write_text

TOLERANCE = 0.02
Curves = dict[str, list[float]]


def make_config(folder: Path, backend: str, updates: int) -> Config:
    """The smoke experiment in float32, a record for each update."""
    config = Config(name=f"curves on {backend}")
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden, part.embedding_init = 64, 96, "normal"
    config.data.captions, config.data.max_length = 1000, 32
    config.data.buckets = [16, 32]
    config.trainer.micro_batch, config.trainer.max_steps = 32, updates
    config.trainer.log_every = config.trainer.decode_samples = 1
    config.trainer.backend = backend
    config.optimizer.warmup_steps = 10
    config.run.dir = str(folder / backend)
    return config


def train(folder: Path, backend: str, updates: int) -> Curves:
    """Losses of each objective, update by update."""
    mx.random.seed(0)
    config = make_config(folder, backend, updates)
    run(config)
    curves: Curves = {}
    for row in read_metrics(RunFolder(Path(config.run.dir)).metrics):
        if row["kind"] == "train":
            for name in ("distillation_loss", "reconstruction_loss"):
                if name in row:
                    curves.setdefault(name, []).append(row[name])
    return curves


def draw(curves: dict[str, Curves], path: Path) -> Path:
    """Both losses, each device its own line."""
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), curves["cpu"], strict=True):
        for style, (backend, found) in zip(
            ("-", "--", ":"), curves.items(), strict=False
        ):
            axes.plot(found[name], style, lw=1.6, label=backend)
        axes.set(title=name.replace("_", " "), xlabel="update of its own")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return save(figure, path)


def main() -> None:
    """Train on each device, compare with the CPU, draw, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    curves: dict[str, Curves] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for backend in reversed(device.available()):  # the CPU first
            curves[backend] = train(Path(scratch), backend, arguments.updates)
    worst = {
        f"{backend} {name}": float(
            np.max(np.abs(np.array(found[name]) / np.array(curves["cpu"][name]) - 1))
        )
        for backend, found in curves.items()
        for name in found
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(draw(curves, arguments.output / "device_curves.png"))
    record = {
        "devices": list(curves),
        "mlx": mx.__version__,
        "updates": arguments.updates,
        "largest_difference": worst,
        "losses": curves,
    }
    text = json.dumps(record, indent=1) + "\n"
    write_text(arguments.output / "device_curves.json", text)
    print("\n".join(f"{name}: {value:.2e}" for name, value in worst.items()))
    if len(curves) < 2:
        print("only one device here: nothing to compare")
    if max(worst.values()) > TOLERANCE:
        raise SystemExit(f"the curves differ by more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()

"""Does the same training give the same curve on each device?

    python benchmarks/device_curves.py [--updates N] [--output FILE]

Trains linear regression, the default encoder (A) and decoder (B) for 50 updates on
every backend that MLX has here, in float32 and from equal weights and batches. Refutes
the claim that devices agree where a loss differs from the CPU's by more than 2 % of the
first loss (their sums round in other orders, and GPUs multiply in TF32). MLX, NumPy and
tokenizers are all it needs; ``python -m benchmarks.suite.draw --curves FILE`` draws it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import numpy as np
from devices import each_device, serve
from small_training import decoder, encoder, linear_regression

from energyflow_mlx.runtime import device

TOLERANCE = 0.02  # of the first loss
BATCH = 16  # of the two networks
Curves = dict[str, list[float]]


def train(updates: int) -> Curves:
    """Losses of each training on the present device, update by update."""
    return {
        "linear regression": linear_regression().run(updates),
        "encoder (A)": encoder(BATCH).run(updates),
        "decoder (B)": decoder(BATCH).run(updates),
    }


def differences(curves: dict[str, Curves]) -> dict[str, float]:
    """Largest distance to the CPU's curve, as a share of its first loss."""
    found = {}
    for backend in (name for name in curves if name != "cpu"):
        for name, losses in curves[backend].items():
            expected = np.array(curves["cpu"][name])
            worst = np.max(np.abs(np.array(losses) - expected)) / expected[0]
            found[f"{name}, {backend}"] = float(worst)
    return found


def main() -> None:
    """Train on each device, compare with the CPU, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--device", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device:
        return serve(arguments.device, lambda: train(arguments.updates))
    curves = dict(each_device(__file__, "--updates", str(arguments.updates)))
    found = differences(curves)
    for name, losses in curves["cpu"].items():
        print(f"{name:20} loss {losses[0]:8.4f} to {losses[-1]:8.4f}")
    for name, value in found.items():
        print(
            f"{name:28} differs from the CPU by at most {value:.2e} of the first loss"
        )
    if len(curves) < 2:
        print("only one device here: nothing to compare")
    extra = {
        "devices": list(device.available()),
        "updates": arguments.updates,
        "tolerance": TOLERANCE,
        "largest_difference": found,
        "losses": curves,
    }
    timing.finish("device_curves", [], arguments.output, **extra)
    fell = all(c[-1] < c[0] for found in curves.values() for c in found.values())
    if not fell:
        raise SystemExit("a loss did not fall")
    if any(value > TOLERANCE for value in found.values()):
        raise SystemExit(f"the curves differ by more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()

"""How fast does training run on the CPU, and how fast on the GPU beside it?

    python benchmarks/bench_training.py [--seconds S] [--output FILE]

Linear regression, an MLP of two hidden layers and the default encoder train on every
device that MLX has here, each device in a process of its own, for S seconds each after
warming up. Claim it would refute: on a GPU the encoder trains faster than on the CPU.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
from devices import each_device, serve
from small_training import Training, encoder, linear_regression, mlp

from energyflow_mlx.runtime import jit_headers

TRAININGS = {"linear regression": linear_regression, "MLP": mlp, "encoder (A)": encoder}
_ROUNDS, _LEAST = 5, 3  # samples, updates of a sample


def measure(training: Training, seconds: float) -> dict[str, Any]:
    """Milliseconds of an update, one following another, and the peak of memory."""
    training.run(_LEAST)
    mx.reset_peak_memory()
    samples = []
    for _ in range(_ROUNDS):
        started, count = time.perf_counter(), 0
        while count < _LEAST or time.perf_counter() - started < seconds / _ROUNDS:
            mx.async_eval(training.update(), training.arrays())
            count += 1
            if count % _LEAST == 0:  # a queue without end would measure nothing
                mx.eval(training.arrays())
        mx.eval(training.arrays())
        mx.synchronize()
        samples.append(1e3 * (time.perf_counter() - started) / count)
    return {"ms": samples, "peak_bytes": mx.get_peak_memory()}


def measure_all(seconds: float) -> dict[str, Any]:
    """Every training on the present device."""
    jit_headers.prepare()
    return {name: measure(TRAININGS[name](), seconds) for name in TRAININGS}


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table: a training a line, a device a column."""
    gpus = [name for name in found if name != "cpu"]
    print(f"{'training':20}{'CPU ms':>10}{'MiB':>8}", end="")
    print("".join(f"{name + ' ms':>12}{'MiB':>8}{'CPU / it':>10}" for name in gpus))
    for name in TRAININGS:
        here = found["cpu"][name]
        low, middle, high = timing.spread(here["ms"])
        line = f"{name:20}{middle:10.3f}{here['peak_bytes'] / 2**20:8.1f}"
        for gpu in gpus:
            there = found[gpu][name]
            other = timing.spread(there["ms"])[1]
            line += f"{other:12.3f}{there['peak_bytes'] / 2**20:8.1f}"
            line += f"{middle / other:10.2f}"
        print(line)
    if not gpus:
        print("no GPU here: the CPU alone was measured")


def main() -> None:
    """Measure on each device, show, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each training")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--device", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if arguments.device:
        return serve(arguments.device, lambda: measure_all(seconds))
    found = dict(each_device(__file__, "--seconds", str(seconds)))
    show(found)
    figures = {}
    for backend, trainings in found.items():
        for name, got in trainings.items():
            figures[f"{name}, {backend}"] = timing.figure("ms", got["ms"])
            peak = timing.figure("bytes", [got["peak_bytes"]])
            figures[f"{name}, {backend}: memory"] = peak
    timing.finish("training", [], arguments.output, figures=figures)
    for backend in (name for name in found if name != "cpu"):
        name = "encoder (A)"
        if min(found[backend][name]["ms"]) > max(found["cpu"][name]["ms"]):
            raise SystemExit(f"the encoder trains slower on {backend} than on the CPU")


if __name__ == "__main__":
    main()

"""Is the cost of an update linear in its tokens?

Run ``python benchmarks/step_cost.py``. Times the distillation update of the default
model for several batch sizes and lengths, in turn, and fits a line, ``time = intercept
+ slope * tokens``. Refutes the claim that the cost is linear where R^2 is below 0.98,
and that an update has little fixed cost where the intercept is more than a third of the
largest time.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.runtime import blas, device, jit_headers
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.token_rows import TokenRows, occurring_rows
from energyflow_mlx.training.update import Stepper

VOCABULARY, DIMENSION = 6585, 384
SIZES, LENGTHS = (32, 64, 128), (8, 12, 16, 24, 32)


def make_stepper(dtype: str) -> Stepper:
    """The default model with its distillation."""
    config = Config()
    config.precision.dtype = dtype
    objectives = build_objectives(config)
    model = build_model(config, parts_of(objectives), VOCABULARY, DIMENSION)
    model.train()
    return Stepper(model, config, list(objectives.values()))


def make_batch(size: int, length: int) -> StepBatch:
    """Sentences of one length, of tokens as frequent as words are (Zipf)."""
    rng = np.random.default_rng(size * 1000 + length)
    ids = (rng.zipf(1.2, (size, length)) % VOCABULARY).astype(np.int32)
    target = rng.normal(size=(size, DIMENSION)).astype(np.float32)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    host = Batch(ids, np.ones((size, length), np.float32), target)
    rows = occurring_rows(ids, VOCABULARY)
    on_device = TokenRows(*(None if a is None else mx.array(a) for a in rows))
    return StepBatch(*(mx.array(a) for a in host), on_device)


def measure(stepper: Stepper, batch: StepBatch) -> float:
    """One update, ms."""
    started = time.perf_counter()
    report = stepper.update("distillation", batch, mx.random.key(0), 1e-4)
    mx.eval(report, stepper.state.arrays())
    return (time.perf_counter() - started) * 1e3


def fit(tokens: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Least squares line through the medians, and its R^2."""
    slope, intercept = np.polyfit(tokens, times, 1)
    rest = times - (slope * tokens + intercept)
    r2 = 1.0 - np.sum(rest**2) / np.sum((times - times.mean()) ** 2)
    return {
        "slope_us_per_token": float(slope * 1e3),
        "intercept_ms": float(intercept),
        "r2": float(r2),
    }


def main() -> None:
    """Measure in turn, fit, show, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default=None, help="default: what is fast here")
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    jit_headers.prepare()
    here = device.describe()
    dtype = arguments.dtype or device.fast_format()
    stepper = make_stepper(dtype)
    cases = [(size, length) for size in SIZES for length in LENGTHS]
    batches = {case: make_batch(*case) for case in cases}
    times: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for repeat in range(arguments.rounds + 1):
        for case in cases:
            elapsed = measure(stepper, batches[case])
            if repeat:  # the first traces
                times[case].append(elapsed)
    tokens = np.array([size * length for size, length in cases], float)
    medians = np.array([np.median(times[case]) for case in cases])
    line = fit(tokens, medians)
    print(f"{'batch':>6} {'length':>6} {'tokens':>7} {'ms':>8}  [p20, p80]  {'fit':>8}")
    rows: list[dict[str, Any]] = []
    for case, count, median in zip(cases, tokens, medians, strict=True):
        low, high = np.percentile(times[case], [20, 80])
        fitted = line["intercept_ms"] + line["slope_us_per_token"] * count / 1e3
        print(
            f"{case[0]:6} {case[1]:6} {count:7.0f} {median:8.2f}  "
            f"[{low:.2f}, {high:.2f}]  {fitted:8.2f}"
        )
        rows.append({"batch": case[0], "length": case[1], "ms": [low, median, high]})
    print(
        f"time = {line['intercept_ms']:.2f} ms + {line['slope_us_per_token']:.2f} us "
        f"a token, R^2 = {line['r2']:.4f}"
    )
    record = {
        "device": str(here),
        "blas": str(blas.info()),
        "dtype": dtype,
        "command": " ".join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": arguments.rounds,
        "traces": dict(stepper.traces),
        **line,
        "cases": rows,
    }
    if arguments.output:
        write_text(arguments.output, json.dumps(record, indent=1) + "\n")
    small = line["intercept_ms"] < medians.max() / 3
    if line["r2"] < 0.98 or not small:
        raise SystemExit("the cost is not linear in the tokens here")


if __name__ == "__main__":
    main()

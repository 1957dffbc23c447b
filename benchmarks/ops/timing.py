"""Timing for the benchmarks of the operations: correct first, interleaved, in ratios.

Candidates and baselines run in turn in one process, so that a change of the machine's
mood meets all of them. A sample is one evaluation of ``inner`` independent calls, long
enough for the clock. What a call moves or computes is set against a ceiling measured
in the same run: a copy for bytes, a matrix product for operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from energyflow_mlx import device

Call = Callable[[], Any]
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


@dataclass
class Result:
    """One measured case.

    Attributes:
        op: The operation.
        mode: ``forward`` or ``forward+backward``.
        shape: The case, readable.
        dtype: Dtype of the inputs.
        milliseconds: By name of the way it was done, the 20th, 50th and 80th
            percentile of one call.
        ratios: By baseline, its time over the candidate's: median and the 20th and
            80th percentile over the interleaved rounds. Above 1 the candidate wins.
        achieved: GB/s or GFLOP/s of the candidate, and its share of the ceiling.
        peak_bytes: Most memory MLX held during one call of the candidate.
    """

    op: str
    mode: str
    shape: str
    dtype: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    achieved: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


def on_gpu() -> bool:
    """Say whether the default device is a GPU."""
    return device.describe().backend != "cpu"


def run(call: Call, inner: int = 1) -> float:
    """Give the seconds that one of ``inner`` calls takes, evaluated together."""
    start = time.perf_counter()
    mx.eval([call() for _ in range(inner)])
    mx.synchronize()
    return (time.perf_counter() - start) / inner


def measure(
    result: Result, calls: Mapping[str, Call], *, rounds: int, sample_ms: float = 2.0
) -> Result:
    """Time the calls in turn; the first is the candidate, the others are baselines.

    Args:
        result: The case; times, ratios and memory are filled in.
        calls: By name, functions without arguments that return arrays.
        rounds: How often each call is sampled.
        sample_ms: Least length of a sample.
    """
    inner = {}
    for name, call in calls.items():
        run(call)
        once = min(run(call) for _ in range(2))
        inner[name] = max(1, min(50, round(sample_ms / 1e3 / once)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if not on_gpu():
                time.sleep(0.05)  # the threads of NumPy's own BLAS spin on for a while
            samples[name].append(run(call, inner[name]) * 1e3)
    candidate, *baselines = calls
    mx.reset_peak_memory()
    run(calls[candidate])
    result.peak_bytes = mx.get_peak_memory()
    result.milliseconds = {name: spread(s) for name, s in samples.items()}
    for name in baselines:
        pairs = zip(samples[name], samples[candidate], strict=True)
        result.ratios[name] = spread([b / c for b, c in pairs])
    return result


def spread(samples: list[float]) -> list[float]:
    """Give the 20th, 50th and 80th percentile."""
    return [float(f"{v:.4g}") for v in np.percentile(samples, [20, 50, 80])]


def candidate_ms(result: Result) -> float:
    """Give the median time of the candidate."""
    return next(iter(result.milliseconds.values()))[1]


def set_bandwidth(result: Result, moved: int, ceiling: float) -> None:
    """Note the bytes a call must move per second, against a copy (GB/s)."""
    rate = moved / candidate_ms(result) / 1e6
    result.achieved = {"GB/s": round(rate, 1), "of_copy": round(rate / ceiling, 3)}


def set_flops(result: Result, operations: int, ceiling: float) -> None:
    """Note the operations a call must do per second, against a product (GFLOP/s)."""
    rate = operations / candidate_ms(result) / 1e6
    result.achieved = {"GFLOP/s": round(rate), "of_matmul": round(rate / ceiling, 3)}


def copy_bandwidth(size: int) -> float:
    """Measure the GB/s of a large copy, bytes read and bytes written counted."""
    x = mx.random.normal((size // 4,))
    ways = (lambda: mx.abs(x), lambda: x + 1.0, lambda: -x)
    times = [statistics.median(run(way, 4) for _ in range(9)) for way in ways]
    return 2 * size / min(times) / 1e9


def matmul_rate(dtype: mx.Dtype, size: int) -> float:
    """Measure the GFLOP/s of a large square matrix product."""
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    seconds = statistics.median(run(lambda: a @ b, 4) for _ in range(9))
    return 2 * size**3 / seconds / 1e9


def require_close(name: str, actual: Any, expected: Any, tolerance: float) -> None:
    """Refuse to go on when a way of doing it gives a wrong result."""
    for a, b in zip(actual, expected, strict=True):
        a, b = (np.array(v.astype(mx.float32)) for v in (a, b))
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        if not error <= tolerance:
            raise SystemExit(f"{name}: wrong by {error:.1e}, allowed {tolerance:.1e}")


def show(result: Result) -> Result:
    """Print one case for people, and pass it on."""
    achieved = ", ".join(f"{k} {v:g}" for k, v in result.achieved.items())
    print(f"{result.op}  {result.mode}  {result.shape}  {result.dtype}  {achieved}")
    for name, (low, middle, high) in result.milliseconds.items():
        line = f"    {name:<22} {middle:9.4g} ms  [{low:.4g}, {high:.4g}]"
        if name in result.ratios:
            low, middle, high = result.ratios[name]
            line += f"   candidate is {middle:.3g} x  [{low:.3g}, {high:.3g}]"
        print(line, flush=True)
    return result


def finish(op: str, results: list[Result], output: Path | None, **extra: Any) -> None:
    """Print the JSON line, and write it to a file when asked."""
    here = device.describe()
    record = {
        "op": op,
        "backend": here.backend,
        "device": here.name,
        "mlx": here.mlx_version,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
        "results": [asdict(result) for result in results],
    }
    line = json.dumps(record)
    if output is not None:
        output.write_text(line + "\n", encoding="utf-8")
    print(line)


def commit() -> str:
    """Give the short hash of the checkout, or ``unknown`` outside one."""
    folder = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def arguments(description: str) -> argparse.Namespace:
    """Parse the command line that all benchmarks of the operations share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=None, help="samples of each way")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    return parser.parse_args()


def torch_or_none() -> Any:
    """Import PyTorch, a baseline where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch

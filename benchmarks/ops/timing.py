"""Timing for the benchmarks of the operations: correct first, interleaved, in ratios.

Candidates and baselines run in turn in one process, so that a change of the machine's
mood meets all of them, and in another order each round. A sample is one evaluation of
several independent calls, long enough for the clock. With ``ahead`` their graph is
built before the clock starts, so that what is timed is the device at work and the
launches behind it, and not Python. What a call moves or computes is set against a
ceiling measured in the same way in the same run: a copy for bytes, a matrix product for
operations.
"""

from __future__ import annotations

import argparse
import json
import random
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

from energyflow_mlx.runtime import device

Call = Callable[[], Any]
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
COPY = "copy of as many bytes"

_MOST_CALLS = 200  # of one sample
_MOST_HELD = 24 * 2**30  # bytes of results that one sample may hold on a GPU


@dataclass(frozen=True)
class Eager:
    """A way that computes when it is called, unlike MLX: ``ahead`` is not for it.

    Attributes:
        call: The call.
        wait: Returns when everything that was called is done.
    """

    call: Callable[[], Any]
    wait: Callable[[], Any] = lambda: None


@dataclass
class Result:
    """One measured case.

    Attributes:
        op: The operation.
        mode: ``forward``, ``backward`` or ``forward+backward``.
        shape: The case, readable.
        dtype: Dtype of the inputs.
        milliseconds: By name of the way it was done, the 20th, 50th and 80th
            percentile of one call.
        ratios: By baseline, its time over the candidate's: median and the 20th and
            80th percentile over the interleaved rounds. Above 1 the candidate wins.
        achieved: GB/s or GFLOP/s of the candidate, and its share of the ceiling.
        peak_bytes: Most memory MLX held during one call of the candidate.
        calls: Calls in one sample of the candidate.
        seconds: What the case took: ``warm-up`` (compilers and checks) and ``timing``.
    """

    op: str
    mode: str
    shape: str
    dtype: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    achieved: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    calls: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter, repr=False)


def on_gpu() -> bool:
    """Say whether the default device is a GPU."""
    return device.describe().backend != "cpu"


def run(call: Call | Eager, calls: int = 1, *, ahead: bool = False) -> float:
    """Give the seconds that one of several calls takes, evaluated together."""
    if isinstance(call, Eager):
        call.wait()
        start = time.perf_counter()
        for _ in range(calls):
            call.call()
        call.wait()
        return (time.perf_counter() - start) / calls
    start = time.perf_counter()
    results = [call() for _ in range(calls)]
    if ahead:
        mx.synchronize()
        start = time.perf_counter()
    mx.eval(results)
    mx.synchronize()
    return (time.perf_counter() - start) / calls


def calls_in_sample(
    call: Call | Eager, sample_ms: float, most: int, *, ahead: bool
) -> int:
    """Warm a way up and give the calls that make a sample of the wanted length."""
    run(call)
    count = 1
    for _ in range(4):  # the first runs of a length take memory from the system
        seconds = run(call, count, ahead=ahead)
        count = max(count, min(most, round(sample_ms / 1e3 / seconds)))
    return count


def measure(
    result: Result,
    calls: Mapping[str, Call | Eager],
    *,
    rounds: int,
    ahead: bool = False,
    held: int = 0,
) -> Result:
    """Time the calls in turn; the first is the candidate, the others are baselines.

    Args:
        result: The case; times, ratios and memory are filled in.
        calls: By name, functions without arguments that return arrays.
        rounds: How often each call is sampled; 0 times nothing.
        ahead: Build the graph before the clock starts; only for calls that leave all
            work to the evaluation, or are ``Eager``.
        held: Bytes that the results of one call keep.
    """
    if rounds == 0:
        result.seconds["checks"] = round(time.perf_counter() - result.began, 1)
        return result
    sample_ms = 10.0 if on_gpu() else 2.0
    most = max(1, min(_MOST_CALLS, _MOST_HELD // max(held, 1)))
    counts = {
        name: calls_in_sample(call, sample_ms, most, ahead=ahead)
        for name, call in calls.items()
    }
    result.seconds["warm-up"] = round(time.perf_counter() - result.began, 1)
    start = time.perf_counter()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        # In another order each round, or one way would always follow the same other.
        for name in order.sample([*calls], len(calls)):
            if not on_gpu():
                time.sleep(0.05)  # the threads of NumPy's own BLAS spin on for a while
            seconds = run(calls[name], counts[name], ahead=ahead)
            samples[name].append(seconds * 1e3)
    result.seconds["timing"] = round(time.perf_counter() - start, 1)
    candidate, *baselines = calls
    result.calls = counts[candidate]
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


def figure(unit: str, samples: list[float]) -> dict[str, Any]:
    """Give a number as the suite keeps and compares it.

    Args:
        unit: ``ms``, ``s``, ``bytes`` or ``count``, where less is better; one that
            ends in ``/s``, where more is.
        samples: All that was measured; one for what does not vary.
    """
    return {"unit": unit, "spread": spread(samples)}


def cannot_run(op: str, reason: str) -> None:
    """End a script that this machine cannot run; the suite shows the reason."""
    print(json.dumps({"op": op, "cannot_run": reason}))
    raise SystemExit(0)


def candidate_ms(result: Result) -> float:
    """Give the median time of the candidate."""
    return next(iter(result.milliseconds.values()))[1]


def set_bandwidth(result: Result, moved: int, ceiling: float) -> None:
    """Note the bytes a call must move per second, against a copy (GB/s)."""
    if not result.milliseconds:
        return
    rate = moved / candidate_ms(result) / 1e6
    result.achieved = {"GB/s": round(rate, 1), "of_copy": round(rate / ceiling, 3)}


def set_flops(result: Result, operations: int, ceiling: float) -> None:
    """Note the operations a call must do per second, against a product (GFLOP/s)."""
    if not result.milliseconds:
        return
    rate = operations / candidate_ms(result) / 1e6
    result.achieved = {"GFLOP/s": round(rate), "of_matmul": round(rate / ceiling, 3)}


def copy_of(moved: int) -> Call:
    """Make a call that reads ``moved / 2`` bytes and writes as many."""
    x = mx.random.normal((max(1, moved // 8),))
    mx.eval(x)
    return lambda: mx.negative(x)


def copy_bandwidth(size: int) -> float:
    """Measure the GB/s of a large copy, bytes read and bytes written counted."""
    call = copy_of(2 * size)
    most = max(1, _MOST_HELD // size) if on_gpu() else 4
    count = calls_in_sample(call, 20.0, most, ahead=True)
    seconds = float(np.median([run(call, count, ahead=True) for _ in range(9)]))
    return 2 * size / seconds / 1e9


def matmul_rate(dtype: mx.Dtype, size: int) -> float:
    """Measure the GFLOP/s of a large square matrix product."""
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a, b)
    run(lambda: a @ b)
    samples = [run(lambda: a @ b, 4, ahead=True) for _ in range(9)]
    seconds = float(np.median(samples))
    return 2 * size**3 / seconds / 1e9


def require_close(name: str, actual: Any, expected: Any, tolerance: float) -> None:
    """Refuse to go on when a way of doing it gives a wrong result."""
    for a, b in zip(actual, expected, strict=True):
        a, b = a.astype(mx.float32), b.astype(mx.float32)
        error = mx.abs(a - b)
        scale = mx.maximum(mx.abs(b).max(), 1e-30)
        if not (error <= tolerance * scale).all().item():  # false for NaN too
            worst = (error.max() / scale).item()
            raise SystemExit(f"{name}: wrong by {worst:.1e}, allowed {tolerance:.1e}")


class Report:
    """Results of a script: shown and written one by one, as soon as each is there."""

    def __init__(self, op: str, output: Path | None, **extra: Any) -> None:
        """Begin a report that goes to a file when one is given."""
        here = device.describe()
        self._output = output
        self._record: dict[str, Any] = {
            "op": op,
            "backend": here.backend,
            "device": here.name,
            "mlx": here.mlx_version,
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **extra,
            "results": [],
        }

    def add(self, result: Result) -> None:
        """Show a result for people and write everything so far to the file."""
        self.keep(show(result))

    def keep(self, result: Result) -> None:
        """Write everything so far, with this result, to the file."""
        entry = asdict(result)
        del entry["began"]
        self._record["results"].append(entry)
        self._write()

    def close(self) -> None:
        """Print the JSON line."""
        self._write()
        print(json.dumps(self._record), flush=True)

    def _write(self) -> None:
        if self._output is not None:
            # Aside, then renamed: a script stopped for time leaves a whole file.
            aside = self._output.with_suffix(".part")
            aside.write_text(json.dumps(self._record) + "\n", encoding="utf-8")
            aside.replace(self._output)


def finish(op: str, results: list[Result], output: Path | None, **extra: Any) -> None:
    """Print the JSON line, and write it to a file when asked."""
    report = Report(op, output, **extra)
    for result in results:
        report.keep(result)
    report.close()


def show(result: Result) -> Result:
    """Print one case for people, and pass it on."""
    achieved = ", ".join(f"{k} {v:g}" for k, v in result.achieved.items())
    took = ", ".join(f"{k} {v:g} s" for k, v in result.seconds.items())
    calls = f"{result.calls} calls a sample, " if result.calls else ""
    case = f"{result.op}  {result.mode}  {result.shape}  {result.dtype}"
    print(f"{case}  {achieved}  ({calls}{took})", flush=True)
    for name, (low, middle, high) in result.milliseconds.items():
        line = f"    {name:<22} {middle:9.4g} ms  [{low:.4g}, {high:.4g}]"
        if name in result.ratios:
            low, middle, high = result.ratios[name]
            line += f"   candidate is {middle:.3g} x  [{low:.3g}, {high:.3g}]"
        print(line, flush=True)
    return result


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


def arguments(description: str, *parts: str) -> argparse.Namespace:
    """Parse the command line that the benchmarks share.

    Args:
        description: What the script says of itself.
        parts: Names of the parts that ``--only`` can choose.
    """
    line = argparse.ArgumentParser(description=description)
    line.add_argument("--rounds", type=int, default=None, help="samples of each way")
    line.add_argument("--output", type=Path, default=None, help="JSON file to write")
    line.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    line.add_argument(
        "--check", action="store_true", help="compile and compare, time nothing"
    )
    line.add_argument("--dtype", nargs="+", choices=[*DTYPES], help="only these")
    if parts:
        line.add_argument("--only", nargs="+", choices=parts, default=parts)
    return line.parse_args()


def rounds_of(args: argparse.Namespace, default: int) -> int:
    """Give the samples of each way, 0 when nothing is to be timed."""
    return 0 if args.check else args.rounds or default


def torch_or_none() -> Any:
    """Import PyTorch, a baseline where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def torch_device(torch: Any) -> tuple[str, Callable[[], Any]]:
    """Give the device where PyTorch runs the baseline, and how to wait for it."""
    if on_gpu() and torch.cuda.is_available():
        return "cuda", torch.cuda.synchronize
    return "cpu", lambda: None

"""Running one benchmark in a process of its own, and what its JSON line holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.suite.entries import CHECKOUT, Entry

Figures = dict[str, dict[str, Any]]
# refuted: it measured, and what it measured speaks against its claim.
Status = Literal["done", "refuted", "cannot run", "failed"]


@dataclass
class Outcome:
    """What came of one benchmark.

    Attributes:
        status: How it ended.
        seconds: How long it took.
        figures: By name, ``unit`` and ``spread``: 20th, 50th and 80th percentile.
        note: Why it is not simply ``done``; else empty.
        record: Its whole JSON line.
    """

    status: Status
    seconds: float
    figures: Figures = field(default_factory=dict)
    note: str = ""
    record: dict[str, Any] = field(default_factory=dict)


def run(entry: Entry, left_s: float = 0.0) -> Outcome:
    """Run a benchmark's short form; it is ended at its limit.

    Args:
        entry: The benchmark.
        left_s: Seconds that earlier ones left of their limits, for this one to use.
    """
    limit_s = entry.limit_s + left_s
    started = time.perf_counter()
    path = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, f"benchmarks/{entry.script}", *entry.words],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its own processes end with it
    )
    try:
        out, errors = process.communicate(timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        note = f"not done within {limit_s:.0f} s"
        return Outcome("failed", time.perf_counter() - started, note=note)
    return judged(process.returncode, out, errors, time.perf_counter() - started)


def judged(status: int, out: str, errors: str, seconds: float) -> Outcome:
    """Say what came of a process that ended by itself."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    last = (errors.strip() or out.strip() or "no output").splitlines()[-1]
    if not lines:
        return Outcome("failed", seconds, note=f"exit status {status}: {last}")
    record = json.loads(lines[-1])
    if "cannot_run" in record:
        return Outcome("cannot run", seconds, note=record["cannot_run"])
    found = figures_of(record)
    if status != 0:
        return Outcome("refuted", seconds, found, last, record)
    return Outcome("done", seconds, found, record=record)


def figures_of(record: dict[str, Any]) -> Figures:
    """Figures of a script's JSON line.

    Those it names under ``figures``, and the candidate's time of each of its
    ``results`` (see ``ops/timing.py``).
    """
    found: Figures = dict(record.get("figures", {}))
    results = record.get("results", [])
    is_one = len({result["op"] for result in results}) == 1
    for result in results:
        words = [] if is_one else [result["op"]]
        name = " ".join([*words, *(result[k] for k in ("mode", "shape", "dtype"))])
        spread = next(iter(result["milliseconds"].values()))
        found[name] = {"unit": "ms", "spread": spread}
    return found

"""The two sides as processes of their own that take turns.

MLX and PyTorch bring their own BLAS and their own pools of threads, which spin for a
while after every product, and on a GPU their own libraries. In one process they would
disturb each other; here one waits on a pipe while the other computes. A message is one
line of JSON each way.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.settings import Settings

Handler = Callable[..., dict | None]


class WorkerFailed(RuntimeError):
    """The process behind a side ended or refused; says why in one line."""


class Worker:
    """One side, by the name of the module that plays it.

    Args:
        module: Run with ``python -m``.
        settings: Given to it at the start.
        python: Interpreter; by default this one.
    """

    def __init__(self, module: str, settings: Settings, python: str = "") -> None:
        threads = str(settings.threads)
        names = ("OMP", "OPENBLAS", "MKL")
        self.module = module
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {f"{name}_NUM_THREADS": threads for name in names},
            text=True,
        )
        self.facts = self.ask("begin", settings=settings.to_json())

    def ask(self, what: str, **arguments: Any) -> dict:
        """Have the side do something and give its answer.

        Raises:
            WorkerFailed: It could not.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([what, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(f"[peers] {self.module} has ended.") from None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"[peers] {self.module} ended during {what!r}.")
        answer = json.loads(line)
        if "failed" in answer:
            raise WorkerFailed(f"[peers] {self.module}, {what}: {answer['failed']}")
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


class Channel:
    """The worker's end: reads what is asked, writes what is answered."""

    def __init__(self) -> None:
        # What libraries print must not reach the answers.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def read(self) -> tuple[str, dict] | None:
        """What is asked next; none when there is nothing more."""
        line = sys.stdin.readline()
        return tuple(json.loads(line)) if line else None

    def pause(self, found: dict) -> bool:
        """Answer in the middle of something; whether to go on with it."""
        self.answer(found)
        asked = self.read()
        return asked is not None and asked[0] == "train"

    def answer(self, found: dict | None) -> None:
        """Answer what was read last."""
        self._out.write(json.dumps(found or {}) + "\n")
        self._out.flush()


def serve(side: object) -> None:
    """Answer with the methods of ``side`` until the other end is closed."""
    channel = Channel()
    side.channel = channel  # type: ignore[attr-defined]
    while (asked := channel.read()) is not None:
        what, arguments = asked
        try:
            channel.answer(getattr(side, what)(**arguments))
        except Exception as error:  # noqa: BLE001 - the other end shows it
            traceback.print_exc()
            channel.answer({"failed": f"{type(error).__name__}: {error}"})


def calls_in(seconds: float, call: Callable[[], Any], wait: Callable[[], Any]) -> int:
    """How many calls make a sample of that length."""
    call()
    count, took = 1, 0.0
    while took < seconds / 4:
        took = timed(call, wait, count)
        if took < seconds / 4:
            count *= 2
    return max(1, round(count * seconds / took))


def timed(call: Callable[[], Any], wait: Callable[[], Any], count: int) -> float:
    """Seconds that ``count`` calls take until everything is computed."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return time.perf_counter() - start


def start_memory() -> None:
    """Let the peak of this process begin again, where the system can."""
    if sys.platform == "linux":
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")
    memory.before = _peak_rss()  # type: ignore[attr-defined]


def memory() -> dict:
    """Highest resident memory since ``start_memory``, and that before it, in bytes."""
    return {"rss_bytes": _peak_rss(), "rss_before_bytes": memory.before}  # type: ignore[attr-defined]


def _peak_rss() -> int:
    if sys.platform == "linux":
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

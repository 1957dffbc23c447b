"""Taking turns: samples of equal calls, and slices of a whole run."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.settings import Settings
from benchmarks.peers.worker import Worker

# Threads of the side before spin on for a while.
_PAUSE_S = 0.2
# How long a whole run may hold the lock before others get it.
_HELD_S = 60.0


@contextmanager
def quiet(settings: Settings) -> Iterator[None]:
    """Time with the lock of a shared machine in hand."""
    if not settings.lock:
        yield
        return
    with open(settings.lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sample(side: Worker) -> float:
    """One sample of a side, in ms."""
    time.sleep(_PAUSE_S)
    return side.ask("sample")["ms"]


@dataclass
class SideRun:
    """What one side has reached.

    Attributes:
        slices: ms of an update in each slice.
        seconds: Training time so far.
        step: Updates so far.
        cosines: Held-out cosine at each pause.
        is_done: It has reached the goal or its last update.
    """

    slices: list[float] = field(default_factory=list)
    seconds: float = 0.0
    step: int = 0
    cosines: list[float] = field(default_factory=list)
    is_done: bool = False

    def take(self, told: dict[str, Any], goal: float) -> None:
        """Note what a side told at a pause; the run's end says ``done``."""
        if told.get("done"):
            self.is_done = True
            return
        ms = (told["seconds"] - self.seconds) / (told["step"] - self.step) * 1e3
        self.slices.append(ms)
        self.cosines.append(told["cosine"])
        self.seconds, self.step = told["seconds"], told["step"]
        self.is_done = self.is_done or told["cosine"] >= goal


@dataclass(frozen=True)
class WholeRun:
    """Slices of both sides and what became of the runs."""

    samples: tuple[list[float], list[float]]
    facts: dict[str, Any]


def whole_run(settings: Settings, case: str, sides: tuple[Worker, Worker]) -> WholeRun:
    """Train on both sides, a slice each in turn.

    ``quality`` goes on until both have reached the goal; ``loop`` takes one slice to
    warm up and then as many as there are rounds.
    """
    runs = (SideRun(), SideRun())
    most = settings.rounds + 1 if case == "loop" else None
    goal = settings.goal if case == "quality" else 2.0  # no cosine is above 1
    number = 0

    def goes_on() -> bool:
        return not all(run.is_done for run in runs) and number != most

    while goes_on():
        with quiet(settings):
            until = time.monotonic() + _HELD_S
            while goes_on() and time.monotonic() < until:
                for index in (0, 1) if number % 2 else (1, 0):
                    if not runs[index].is_done:
                        time.sleep(_PAUSE_S)
                        runs[index].take(sides[index].ask("train"), goal)
                number += 1
    for side in sides:
        side.ask("stop")
    first = 1 if case == "loop" else 0  # what is compiled belongs to a real run
    both = min(len(run.slices) for run in runs)
    slices = tuple(run.slices[first:both] for run in runs)
    names = ("ours", "twin")
    facts: dict[str, Any] = {}
    if case == "quality":
        facts["to_goal"] = {
            name: {
                "seconds": run.seconds,
                "updates": run.step,
                "cosine": run.cosines[-1],
                "cosines": run.cosines,
            }
            for name, run in zip(names, runs, strict=True)
        }
        facts["time_ratio"] = runs[1].seconds / runs[0].seconds
    return WholeRun((slices[0], slices[1]), facts)

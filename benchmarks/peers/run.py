"""How fast is training here, against a PyTorch twin of the same work?

    python -m benchmarks.peers.run [device=cpu] [what=a,b,candidates] [batch=256]

Claims it would refute: on two CPU cores, float32, our updates are at least as fast as
PyTorch's in every case.

Both sides have the same weights and batches; losses, gradients and the first update are
compared before anything is timed. Then they take turns, each in a process of its own.
The ratio is PyTorch's time over ours, round by round: above 1 we are faster.
"""

from __future__ import annotations

import fcntl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.agreement import require_same
from benchmarks.peers.report import Report
from benchmarks.peers.settings import Settings, parse, refuse
from benchmarks.peers.worker import Worker, WorkerFailed

_OURS, _TWIN = "benchmarks.peers.mlx_side", "benchmarks.peers.torch_side"
# Threads of the side before spin on for a while.
_PAUSE_S = 0.2


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


def fastest(
    twin: Worker, settings: Settings, objective: str, folder: Path
) -> tuple[str, dict[str, float]]:
    """The fastest form of the twin, and the ms of each."""
    names = twin.ask("variants")["variants"]
    found = {}
    for name in names if len(names) > 1 else ():
        twin.ask("prepare", objective=objective, folder=str(folder), variant=name)
        with quiet(settings):
            twin.ask("settle")
            found[name] = min(sample(twin) for _ in range(2))
    return min(found, key=lambda name: found[name], default=names[0]), found


def compare(settings: Settings, case: str, report: Report) -> None:
    """One case: agreement first, then the rounds."""
    with (
        tempfile.TemporaryDirectory() as name,
        Worker(_OURS, settings) as ours,
        Worker(_TWIN, settings, settings.twin) as twin,
    ):
        folder = Path(name)
        report.about(ours.facts, twin.facts)
        facts = ours.ask("prepare", case=case, folder=name)
        objective = facts["objective"]
        chosen, tried = fastest(twin, settings, objective, folder)
        twin.ask("prepare", objective=objective, folder=name, variant=chosen)
        files = folder / "ours.npz", folder / "twin.npz"
        sides = ours, twin
        losses = [
            side.ask("agree", output=str(file))["loss"]
            for side, file in zip(sides, files, strict=True)
        ]
        agreed = require_same(case, tuple(losses), files, settings.precision)
        samples: list[list[float]] = [[], []]
        for number in range(-1, settings.rounds):
            order = (0, 1) if number % 2 else (1, 0)
            with quiet(settings):
                if number < 0:
                    for side in sides:
                        side.ask("settle")
                    continue
                for index in order:
                    samples[index].append(sample(sides[index]))
        facts |= {"variant": chosen, "variants_ms": tried, "agreement": agreed}
        facts["memory"] = {
            "ours": ours.ask("memory"),
            "twin": twin.ask("memory"),
        }
        report.add(case, samples[0], samples[1], facts)


def main() -> None:
    """Run every case and write the report."""
    try:
        settings = parse(sys.argv[1:])
        report = Report(settings, sys.argv[1:])
        for case in settings.cases:
            compare(settings, case, report)
        report.close()
    except (ValueError, WorkerFailed) as error:
        refuse(error)


if __name__ == "__main__":
    main()

"""How fast is training here, against a PyTorch twin of the same work?

    python -m benchmarks.peers.run [device=cpu] [what=a,b,candidates] [batch=256]

Claims it would refute: on two CPU cores, float32, our updates are at least as fast as
PyTorch's in every case.

Both sides have the same weights and batches; losses, gradients and the first update are
compared before anything is timed. Then they take turns, each in a process of its own.
The ratio is PyTorch's time over ours, round by round: above 1 we are faster.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.agreement import require_same
from benchmarks.peers.report import Report
from benchmarks.peers.settings import WHOLE_RUNS, Settings, parse, refuse
from benchmarks.peers.turns import quiet, sample, whole_run
from benchmarks.peers.worker import Worker, WorkerFailed

_OURS, _TWIN = "benchmarks.peers.mlx_side", "benchmarks.peers.torch_side"


@contextmanager
def two_sides(settings: Settings) -> Iterator[tuple[Worker, Worker]]:
    """Our side and the twin, as fresh processes."""
    with (
        Worker(_OURS, settings) as ours,
        Worker(_TWIN, settings, settings.twin) as twin,
    ):
        yield ours, twin


def fastest(
    settings: Settings, case: str, folder: Path, facts: dict
) -> tuple[str, dict[str, float]]:
    """The fastest form of the twin, and the ms of each; in a process that then ends."""
    found: dict[str, float] = {}
    with Worker(_TWIN, settings, settings.twin) as twin:
        names = twin.ask("variants", case=case)["variants"]
        if len(names) == 1:
            return names[0], {}
        for name in names:
            twin.ask(
                "prepare", case=case, folder=str(folder), variant=name, facts=facts
            )
            twin.ask("warm")
        with quiet(settings):
            for name in names:
                twin.ask("settle", variant=name)
                found[name] = min(sample(twin) for _ in range(2))
    return min(found, key=lambda name: found[name]), found


def compare_calls(settings: Settings, case: str, report: Report) -> None:
    """A case of equal calls: agreement first, then the rounds."""
    with tempfile.TemporaryDirectory() as name, two_sides(settings) as sides:
        folder, (ours, twin) = Path(name), sides
        report.about(ours.facts, twin.facts)
        facts = ours.ask("prepare", case=case, folder=name)
        chosen, tried = fastest(settings, case, folder, facts)
        twin.ask("prepare", case=case, folder=name, variant=chosen, facts=facts)
        files = folder / "ours.npz", folder / "twin.npz"
        losses = [
            side.ask("agree", output=str(file))["loss"]
            for side, file in zip(sides, files, strict=True)
        ]
        agreed = require_same(case, losses, files, settings.tolerance)
        samples: tuple[list[float], list[float]] = ([], [])
        with quiet(settings):
            ours.ask("settle")
            twin.ask("settle", variant=chosen)
            for number in range(settings.rounds):
                for index in (0, 1) if number % 2 else (1, 0):
                    samples[index].append(sample(sides[index]))
        facts |= {"variant": chosen, "variants_ms": tried, "agreement": agreed}
        facts["memory"] = {"ours": ours.ask("memory"), "twin": twin.ask("memory")}
        report.add(case, *samples, facts)


def compare_runs(settings: Settings, case: str, report: Report) -> None:
    """A whole run of the main job on both sides, in slices that take turns."""
    with tempfile.TemporaryDirectory() as name, two_sides(settings) as sides:
        ours, twin = sides
        report.about(ours.facts, twin.facts)
        facts = ours.ask("prepare", case=case, folder=name)
        variant = settings.variants.split(",")[0] or twin.facts["loop_variant"]
        twin.ask("prepare", case=case, folder=name, variant=variant, facts=facts)
        found = whole_run(settings, case, sides)
        facts |= {"variant": variant, **found.facts}
        facts["memory"] = {"ours": ours.ask("memory"), "twin": twin.ask("memory")}
        report.add(case, *found.samples, facts)


def main() -> None:
    """Run every case and write the report."""
    try:
        settings = parse(sys.argv[1:])
        report = Report(settings, sys.argv[1:])
        for case in settings.cases:
            compare = compare_runs if case in WHOLE_RUNS else compare_calls
            compare(settings, case, report)
        report.close()
    except (ValueError, WorkerFailed) as error:
        refuse(error)


if __name__ == "__main__":
    main()

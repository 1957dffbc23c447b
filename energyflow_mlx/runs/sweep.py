"""The folder of a sweep: a run folder for each job, and how the others ended.

A job that finished has its summary in its run folder. Of any other the sweep keeps an
outcome, one file for each job, since several jobs may run at once; a refused job has no
run folder at all.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text

Job = dict[str, Any]

# How a job ended that need not run again.
ENDED = ("finished", "stopped early")


@dataclass(frozen=True)
class SweepFolder:
    """Everything of a sweep on the disk; the only place that knows the names in it.

    Attributes:
        path: The folder; that of a single run is a sweep of one job.
    """

    path: Path

    @property
    def outcomes(self) -> Path:
        """Folder of how jobs ended that did not finish."""
        return self.path / "outcomes"

    @property
    def json(self) -> Path:
        """Everything known of the jobs."""
        return self.path / "sweep.json"

    @property
    def markdown(self) -> Path:
        """The table for people."""
        return self.path / "sweep.md"

    @property
    def csv(self) -> Path:
        """The table for programs, every column."""
        return self.path / "sweep.csv"

    @property
    def study(self) -> Path:
        """What Optuna knows of its trials."""
        return self.path / "optuna.log"

    # -- outcomes ------------------------------------------------------------

    def note(
        self, job: str, status: str, overrides: Sequence[str], reason: str = ""
    ) -> None:
        """Keep how a job stands that has not finished.

        Args:
            job: Its folder below the sweep's.
            status: ``unfinished`` (it goes on, or was killed), ``refused``,
                ``diverged``, ``failed`` or ``interrupted``.
            overrides: What the user set for it, as ``key=value``.
            reason: The one line that says why.
        """
        outcome = {"status": status, "overrides": list(overrides), "reason": reason}
        text = json_text(outcome, indent=1)
        write_text(self.outcomes / f"{job}.json", text + "\n")

    def forget(self, job: str) -> None:
        """Drop what was noted of a job: it has finished."""
        (self.outcomes / f"{job}.json").unlink(missing_ok=True)

    # -- jobs ----------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """All jobs in natural order of their names, job 2 before job 10.

        Returns:
            One dictionary each: ``job`` (folder below this one), ``overrides`` (key to
            value), ``status``, ``reason`` and whatever else its summary holds.

        Raises:
            InputError: There is none.
        """
        noted = {
            path.relative_to(self.outcomes).with_suffix("").as_posix(): path
            for path in self.outcomes.rglob("*.json")
        }
        runs = {run.path.relative_to(self.path).as_posix(): run for run in self._runs()}
        found = [
            _job(name, runs.get(name), noted.get(name))
            for name in sorted(noted.keys() | runs.keys(), key=_natural)
        ]
        if not found:
            raise InputError(f"[sweep] {self.path}: must hold run folders, got none.")
        return found

    def _runs(self) -> Iterator[RunFolder]:
        """Run folders, outermost only."""
        for folder, inside, _ in os.walk(self.path):
            run = RunFolder(Path(folder))
            if run.exists() or run.summary.is_file():
                inside.clear()
                yield run
            elif run.path == self.outcomes:
                inside.clear()


def _job(name: str, run: RunFolder | None, noted: Path | None) -> Job:
    job: Job = {"job": name, "overrides": {}, "status": "unfinished", "reason": ""}
    if noted is not None:
        try:
            job |= json.loads(noted.read_text(encoding="utf-8"))
            job["overrides"] = as_mapping(job["overrides"])
        except (ValueError, TypeError, AttributeError):
            return job | {"overrides": {}, "status": "unreadable"}
        if job["status"] == "refused":  # whatever lies there is of another job
            return job
    if run is None or not run.summary.is_file():
        return job
    try:
        summary = run.read_summary()
    except ValueError:
        return job | {"status": "unreadable"}
    if not isinstance(summary, dict):
        return job | {"status": "unreadable"}
    overrides = as_mapping(summary.get("overrides", []))
    return job | summary | {"overrides": overrides, "reason": ""}


def as_mapping(overrides: Sequence[str]) -> dict[str, str]:
    """Split ``key=value`` words as Hydra has them."""
    pairs = [word.partition("=") for word in overrides]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

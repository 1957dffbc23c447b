"""Table of the jobs of a sweep: ``python -m energyflow_mlx.sweep_report run=FOLDER``.

Reads the ``summary.json`` of every run below the folder, prints one row per job and
writes ``sweep.json`` (everything) and ``sweep.md`` (the table) into the folder. A sweep
started with ``-m`` does the same at its end, through the Hydra callback here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.display import RunDisplay, format_value
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_text

SUMMARY = "summary.json"
CONFIG = "config.json"

# What a row shows; sweep.json has the rest.
_SHOWN = ("cosine", "p_at_1", "ce", "bleu", "exact")

Job = dict[str, Any]


@dataclass
class SweepReportArgs:
    """Show the table of the jobs of a sweep; write sweep.json and sweep.md."""

    run: str = field(default="???", metadata={"help": "folder of the sweep"})


def sweep_report(args: SweepReportArgs) -> None:
    """Run the command; see the module."""
    folder = Path(args.run)
    show(report(folder), folder)


class SweepReport(Callback):
    """Hydra callback that reports when a sweep has ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the table of the sweep's folder."""
        folder = Path(str(config.hydra.sweep.dir))
        show(report(folder), folder)


def report(folder: Path) -> list[Job]:
    """Collect the jobs below a folder and write ``sweep.json`` and ``sweep.md``.

    Args:
        folder: The sweep's folder, or that of a single run.

    Returns:
        One dictionary per job, in natural order of their folders: ``job`` (folder
        below ``folder``), ``overrides`` (key to value), ``status`` and whatever else
        the job's summary holds. A job without a summary has the status
        ``"unfinished"``, one with a damaged summary ``"unreadable"``.

    Raises:
        InputError: There is no run below the folder.
    """
    folder = Path(folder)
    jobs = [_read_job(folder, path) for path in _run_folders(folder)]
    if not jobs:
        raise InputError(
            f"[sweep] {folder}: must hold run folders with {CONFIG}, got none."
        )
    write_text(folder / "sweep.json", json.dumps(jobs, indent=1, ensure_ascii=False))
    columns, rows = table_of(jobs)
    write_text(folder / "sweep.md", _markdown(columns, rows))
    return jobs


def show(jobs: Sequence[Job], folder: Path, display: RunDisplay | None = None) -> None:
    """Print the table of the jobs."""
    columns, rows = table_of(jobs)
    with display or RunDisplay() as shown:
        shown.table(f"Sweep {folder}", columns, rows)


def table_of(jobs: Sequence[Job]) -> tuple[list[str], list[list[Any]]]:
    """Lay out jobs: what they differ in, how they ended, their key metrics."""
    varied = _varied_keys([job["overrides"] for job in jobs])
    names = [n for n in _SHOWN if any(n in job.get("final", {}) for job in jobs)]
    columns = ["job", *varied, "status", "steps", "seconds", *names]
    rows = [
        [
            job["job"],
            *[job["overrides"].get(key) for key in varied],
            *[job.get(key) for key in ("status", "steps", "seconds")],
            *[job.get("final", {}).get(name) for name in names],
        ]
        for job in jobs
    ]
    return columns, rows


def _run_folders(folder: Path) -> list[Path]:
    """Folders of runs, outermost only, job 2 before job 10."""
    files = [*folder.rglob(SUMMARY), *folder.rglob(CONFIG)]
    found = {file.parent for file in files}
    outermost = [path for path in found if not found & set(path.parents)]
    return sorted(outermost, key=lambda path: _natural(path.relative_to(folder)))


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read_job(folder: Path, path: Path) -> Job:
    job: Job = {"job": path.relative_to(folder).as_posix(), "overrides": {}}
    file = path / SUMMARY
    if not file.is_file():
        return job | {"status": "unfinished"}
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return job | {"status": "unreadable"}
    if not isinstance(summary, dict):
        return job | {"status": "unreadable"}
    overrides = _as_mapping(summary.get("overrides", []))
    return {"job": job["job"]} | summary | {"overrides": overrides}


def _as_mapping(overrides: Sequence[str]) -> dict[str, str]:
    """Split ``key=value`` words as Hydra has them."""
    pairs = [word.partition("=") for word in overrides]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _varied_keys(overrides: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose value is not the same in every job, in order of appearance."""
    keys = dict.fromkeys(key for one in overrides for key in one)
    return [key for key in keys if len({one.get(key) for one in overrides}) > 1]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [line([format_value(value) for value in row]) for row in rows]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body]) + "\n"


def main() -> None:
    """Command line; see the module."""
    cli.main(SweepReportArgs, sweep_report)


if __name__ == "__main__":
    main()

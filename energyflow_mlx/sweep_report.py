"""Table of the jobs of a sweep: ``python -m energyflow_mlx.sweep_report run=FOLDER``.

Prints one row for each job, however it ended, and writes ``sweep.json`` (everything),
``sweep.csv`` (every column) and ``sweep.md`` (the table) into the folder. A sweep
started with ``-m`` does the same at its end, through the Hydra callback here.
"""

import csv
import io
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.display import RunDisplay, format_value
from energyflow_mlx.runs.sweep import ENDED, Job, SweepFolder
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text

# Figures of the table in the terminal, as far as there is room, dearest first.
_SHOWN = ("cosine", "ce", "bleu", "p_at_1", "exact")
_WIDTH = 80
_MARGIN, _GAP = 2, 3  # around and between columns, of the wider kind of table
_LONGEST = 24  # of a value in the terminal


@dataclass
class SweepReportArgs:
    """Show the table of a sweep's jobs; write sweep.json, sweep.csv and sweep.md."""

    run: str = field(default="???", metadata={"help": "folder of the sweep"})


def sweep_report(args: SweepReportArgs) -> None:
    """Run the command; see the module."""
    _show_and_write(Path(args.run))


class SweepReport(Callback):
    """Hydra callback that reports when a sweep has ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the table; exit status 1 unless every job has finished."""
        folder = Path(str(config.hydra.sweep.dir))
        jobs = _show_and_write(folder)
        left = [job["job"] for job in jobs if job["status"] not in ENDED]
        if left:
            sys.stderr.write(
                f"error: [sweep] {len(left)} of {len(jobs)} jobs did not finish; the "
                "same command tries them again\n"
            )
            sys.exit(1)


def _show_and_write(folder: Path) -> list[Job]:
    """The table on the terminal first: it does not need the disk."""
    show(SweepFolder(folder).jobs(), folder)
    return report(folder)


def report(folder: Path) -> list[Job]:
    """Collect the jobs below a folder and write the three tables.

    Args:
        folder: The sweep's folder, or that of a single run.

    Returns:
        What ``SweepFolder.jobs`` gives.

    Raises:
        InputError: There is no job below the folder.
    """
    sweep = SweepFolder(Path(folder))
    jobs = sweep.jobs()
    write_text(sweep.json, json_text(jobs, indent=1))
    columns, rows = table_of(jobs)
    write_text(sweep.markdown, _markdown(columns, rows))
    write_text(sweep.csv, _csv(columns, rows))
    return jobs


def show(jobs: Sequence[Job], folder: Path, display: RunDisplay | None = None) -> None:
    """Print the table of the jobs in 80 columns, and why some did not finish."""
    columns, rows = _fitting(*table_of(jobs))
    with display or RunDisplay() as shown:
        shown.table(f"Sweep {folder}", columns, rows)
        for job in jobs:
            if job["reason"]:
                line = f"job {job['job']} {job['status']}: {job['reason']}"
                for part in textwrap.wrap(line, _WIDTH, subsequent_indent="    "):
                    shown.message(part)


def table_of(jobs: Sequence[Job]) -> tuple[list[str], list[list[Any]]]:
    """Lay out jobs: what they differ in, how they ended, their figures, and why."""
    varied = _varied_keys([job["overrides"] for job in jobs])
    finals = [job.get("final", {}) for job in jobs]
    there = dict.fromkeys(name for final in finals for name in final)
    names = [n for n in _SHOWN if n in there] + [n for n in there if n not in _SHOWN]
    columns = ["job", *varied, "status", "steps", "seconds", *names, "reason"]
    rows = [
        [
            job["job"],
            *[job["overrides"].get(key) for key in varied],
            *[job.get(key) for key in ("status", "steps", "seconds")],
            *[final.get(name) for name in names],
            job["reason"] or None,
        ]
        for job, final in zip(jobs, finals, strict=True)
    ]
    return columns, rows


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[list[str], list[list[Any]]]:
    """The columns for which 80 characters have room, with short names and values."""
    last = columns.index("seconds")
    chosen = [n for n, name in enumerate(columns) if n <= last or name in _SHOWN]
    names = _short(columns)
    cells = [[_shortened(row[n]) for n in chosen] for row in rows]
    widths = [
        max([len(names[n]), *(len(format_value(row[place])) for row in cells)])
        for place, n in enumerate(chosen)
    ]
    # How a job ended must be there; other columns go from the right.
    needed = [chosen.index(columns.index(name)) for name in ("job", "status")]
    room = _WIDTH - _MARGIN - sum(widths[place] + _GAP for place in needed)
    kept = set(needed)
    for place, width in enumerate(widths):
        if place not in kept and width + _GAP <= room:
            kept.add(place)
            room -= width + _GAP
    places = sorted(kept)
    header = [names[chosen[place]] for place in places]
    return header, [[row[place] for place in places] for row in cells]


def _short(columns: Sequence[str]) -> list[str]:
    """Dotted keys by their last words, as many as tell them apart."""
    found = []
    for name in columns:
        words = name.split(".")
        others = [other for other in columns if other != name]
        for count in range(1, len(words) + 1):
            tail = ".".join(words[-count:])
            if not any(f".{other}".endswith(f".{tail}") for other in others):
                break
        found.append(tail)
    return found


def _shortened(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", value):  # as a sampler draws them
        return f"{float(value):.4g}"
    return f"{value[: _LONGEST - 3]}..." if len(value) > _LONGEST else value


def _varied_keys(overrides: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose value is not the same in every job, in order of appearance."""
    keys = dict.fromkeys(key for one in overrides for key in one)
    return [key for key in keys if len({one.get(key) for one in overrides}) > 1]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [line([format_value(value) for value in row]) for row in rows]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body]) + "\n"


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([columns, *rows])
    return buffer.getvalue()


def main() -> None:
    """Command line; see the module."""
    cli.main(SweepReportArgs, sweep_report)


if __name__ == "__main__":
    main()

"""Several runs beside each other: curves over one another, figures, settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from energyflow_mlx.errors import InputError
from energyflow_mlx.plots.curves import (
    Curves,
    Panel,
    blank,
    draw_training,
    gid_of,
    panels_of,
)
from energyflow_mlx.plots.facts import RunFacts
from energyflow_mlx.plots.pictures import save
from energyflow_mlx.plots.report import REPORT, write_sections
from energyflow_mlx.plots.svg import inline, page_style
from energyflow_mlx.plots.tables import Section, pictures, table

_ABSENT = "\u2013"

Runs = Mapping[str, RunFacts]


def write_comparison(folder: Path, runs: Runs) -> list[Path]:
    """Write a picture for every value that was logged, and ``report.html``.

    Args:
        folder: Where they go; created when missing.
        runs: At least two, by the names that they are shown by.

    Returns:
        The files.

    Raises:
        InputError: None of the runs has logged anything.
    """
    folder, values = Path(folder), _values(runs)
    if not values:
        raise InputError(f"[plot] {', '.join(runs)}: must have logs, got none.")
    files = [
        save(_draw(panel, label, runs), folder / f"{_file(label)}.png")
        for label, panel in values.items()
    ]
    with page_style():
        drawn = [
            inline(_draw(panel, label, runs), _file(label), f"{label} of every run")
            for label, panel in values.items()
        ]
    sections = [
        Section("figures", "Figures", table(*figures_of(runs))),
        Section("curves", "Curves", pictures(drawn)),
        Section("settings", "Settings that differ", table(*differing(runs))),
    ]
    title, names = f"{len(runs)} runs", ", ".join(runs)
    return [*files, write_sections(folder / REPORT, title, names, sections)]


def figures_of(runs: Runs) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the table of final figures, a column for each run."""
    ends: dict[str, dict[str, Any]] = {}
    for name, facts in runs.items():
        summary = facts.summary
        ends[name] = {
            "status": summary.get("status", "unfinished"),
            "updates": summary.get("steps"),
            "training seconds": summary.get("seconds"),
            "best update": summary.get("best", {}).get("step"),
            **facts.figures,
        }
    measures = dict.fromkeys(key for end in ends.values() for key in end)
    rows = [[key, *(end.get(key) for end in ends.values())] for key in measures]
    return ["measure", *runs], rows


def differing(runs: Runs) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the table of settings that differ, but for the folder's."""
    keys = dict.fromkeys(key for facts in runs.values() for key in facts.settings)
    rows = []
    for key in keys:
        found = [str(facts.settings.get(key, _ABSENT)) for facts in runs.values()]
        if key != "run.dir" and len(set(found)) > 1:
            rows.append([key, *found])
    return ["setting", *runs], rows


def _values(runs: Runs) -> dict[str, Panel]:
    """Names of what any run has logged, each with the panel that it belongs to."""
    found: dict[str, Panel] = {}
    for facts in runs.values():
        for panel, curves in panels_of(facts.curves):
            found |= {label: panel for _, label in curves}
    return found


def _draw(panel: Panel, label: str, runs: Runs) -> Figure:
    """One value of every run: lines while training, dots where it was validated."""
    figure, axes = blank(label.replace("_", " "), panel.axis)
    for number, (name, facts) in enumerate(runs.items()):
        color = f"C{number}"
        for kind, curve in _of(facts.curves, label):
            gid = f"run{number}-{gid_of(kind, label)}"
            if kind == "validation":
                axes.plot(*curve, "o-", mfc="none", lw=1.4, color=color, gid=gid,
                          label=f"{name}, validation")  # fmt: skip
            else:
                draw_training(axes, curve, name, color, "-", gid=gid)
    if panel.is_share:
        axes.set_ylim(0, 1)
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def _of(curves: Curves, label: str) -> Sequence[tuple[str, Any]]:
    return [(kind, curve) for (kind, name), curve in curves.items() if name == label]


def _file(label: str) -> str:
    return label.replace(" ", "-")

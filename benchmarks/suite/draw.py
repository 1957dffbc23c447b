"""Pictures of what the suite stored, and of the curves of devices.

    python -m benchmarks.suite.draw [FILE ...] [--curves FILE]

FILE is a record of the suite; without one all in ``results/`` are drawn. The picture
lies beside it, under the same name: throughput against batch, length, width and flows,
and the time to a quality. ``--curves`` draws a record of ``device_curves.py``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from benchmarks.suite.machine import RESULTS, read
from energyflow_mlx.errors import InputError
from energyflow_mlx.plots.pictures import save

Point = tuple[float, list[float]]  # where, and 20th, 50th, 80th percentile there
_UPDATE = re.compile(r"update B(\d+) L(\d+) D(\d+)")


def figures_in(record: dict[str, Any], benchmark: str) -> dict[str, Any]:
    """Figures of a benchmark: of the latest run, or else of the stored one."""
    for run in ("latest", "stored"):
        if record[run].get(benchmark, {}).get("figures"):
            return record[run][benchmark]["figures"]
    return {}


def updates(figures: dict[str, Any]) -> dict[tuple[int, int, int], list[float]]:
    """Spread of the sentences a second, by batch, length and width."""
    found = {}
    for name, figure in figures.items():
        match = _UPDATE.fullmatch(name)
        if match:
            batch, length, width = map(int, match.groups())
            found[batch, length, width] = figure["spread"]
    return found


def lines(
    points: dict[tuple[int, int, int], list[float]], along: int, by: int
) -> dict[int, list[Point]]:
    """Lines along one of batch, length, width; one for each value of another.

    Args:
        points: Spread by batch, length and width.
        along: Position of what varies along a line.
        by: Position of what varies between lines; the third stays where most points
            are.
    """
    rest = 3 - along - by
    values = [case[rest] for case in points]
    usual = max(set(values), key=values.count)
    found: dict[int, list[Point]] = {}
    for case in sorted(points):
        if case[rest] == usual:
            found.setdefault(case[by], []).append((case[along], points[case]))
    return {value: line for value, line in found.items() if len(line) > 1}


def draw_suite(record: dict[str, Any], title: str) -> Figure:
    """Five panels: four of throughput, one of quality."""
    figure = Figure(figsize=(11, 6.4), dpi=90, layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(2, 3).flat
    points = updates(figures_in(record, "throughput"))
    for place, along, by, name, key in (
        (next(panels), 0, 1, "Batch B", "L"),
        (next(panels), 1, 0, "Length L, tokens", "B"),
        (next(panels), 2, 1, "Width D", "L"),
    ):
        found = lines(points, along, by) if points else {}
        named = {f"{key} {value}": line for value, line in found.items()}
        _throughput(place, named, name, "sentences/s")
    flows = {
        int(name.split()[2]): figure["spread"]
        for name, figure in figures_in(record, "throughput").items()
        if name.startswith("lattice of")
    }
    axes = next(panels)
    _throughput(axes, {"": sorted(flows.items())}, "Flows of a sample", "flows/s")
    axes.set_yscale("linear")
    axes.set_ylim(0, None)
    _quality(next(panels), figures_in(record, "quality"))
    _update_rates(next(panels), figures_in(record, "step"))
    return figure


def _throughput(
    axes: Axes, named: dict[str, list[Point]], label: str, unit: str
) -> None:
    """Rates with their spread, both axes in powers of two."""
    for name, points in named.items():
        if not points:
            continue
        x = [where for where, _ in points]
        low, middle, high = zip(*(spread for _, spread in points), strict=True)
        (line,) = axes.plot(x, middle, "o-", ms=4, lw=1.4, label=name or None)
        axes.fill_between(x, low, high, alpha=0.2, color=line.get_color(), lw=0)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=unit)
    _plain_ticks(axes, sorted({w for points in named.values() for w, _ in points}))
    if any(name and points for name, points in named.items()):
        axes.legend(frameon=False, fontsize=8)


def _plain_ticks(axes: Axes, places: Sequence[float]) -> None:
    """Write the measured sizes below, and round numbers beside."""
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)


def _quality(axes: Axes, figures: dict[str, Any]) -> None:
    """Held-out cosine against seconds of training."""
    reached = sorted((figure["spread"][1], name) for name, figure in figures.items())
    seconds = [second for second, _ in reached]
    axes.plot(seconds, [float(name.split()[1]) for _, name in reached], "o-", ms=4)
    axes.set(xlabel="seconds of training", ylabel="held-out cosine", xlim=(0, None))
    axes.grid(alpha=0.3)


def _update_rates(axes: Axes, figures: dict[str, Any]) -> None:
    """Updates a second of A and B as bars."""
    rates = {n: f["spread"] for n, f in figures.items() if f["unit"] == "steps/s"}
    for place, (low, middle, high) in enumerate(rates.values()):
        axes.barh(place, middle, xerr=[[middle - low], [high - middle]], color="C0")
    axes.set_yticks(range(len(rates)), [_short(name) for name in rates], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="updates/s")
    axes.grid(alpha=0.3, axis="x")


def _short(name: str) -> str:
    """A case of ``bench_step.py`` in two lines."""
    name = name.replace("distillation", "A").replace("reconstruction", "B")
    return name.replace(" float32", "").replace(" V", "\nV").replace(" 2048", "\n2048")


def draw_curves(record: dict[str, Any]) -> Figure:
    """Losses of each training, each device its own line."""
    losses = record["losses"]
    names = list(losses["cpu"])
    figure = Figure(figsize=(4 * len(names), 3.4), dpi=90, layout="constrained")
    styles = dict(zip(losses, ("-", "--", ":"), strict=False))
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for backend, found in losses.items():
            axes.plot(found[name], styles[backend], lw=1.8, label=backend)
        axes.set(title=name, xlabel="update", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def drawn(path: Path, draw: Callable[[], Figure]) -> Path:
    """Draw a record's picture beside it."""
    return save(draw(), path.with_suffix(".png"))


def main(words: Sequence[str] | None = None) -> None:
    """Draw what is named, or every record of the suite."""
    line = argparse.ArgumentParser(
        prog="python -m benchmarks.suite.draw",
        description=(__doc__ or "").split("\n")[0],
    )
    line.add_argument("files", nargs="*", type=Path, metavar="FILE")
    line.add_argument("--curves", type=Path, help="record of device_curves.py")
    arguments = line.parse_args(words)
    files = arguments.files
    if not files and not arguments.curves:
        files = sorted(RESULTS.glob("suite_*.json"))
    for path in [*files, *([arguments.curves] if arguments.curves else [])]:
        if not path.is_file():
            raise InputError(f"[draw] {path}: there must be a record, got no file.")
    for path in files:
        record = read(path)
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        title = f"{machine['backend']}, {machine['device']}, MLX {machine['mlx']}"
        print(drawn(path, lambda r=record, t=title: draw_suite(r, t)))
    if arguments.curves:
        record = json.loads(arguments.curves.read_text(encoding="utf-8"))
        print(drawn(arguments.curves, lambda: draw_curves(record)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)

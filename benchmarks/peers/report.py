"""Table, JSON and plot of a comparison."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.settings import Settings, public_words

_OURS, _TWIN = "#0072b2", "#d55e00"  # distinct for every kind of color vision
_COMMAND = "python -m benchmarks.peers.run"
_HEADS = ("case", "ours ms", "PyTorch ms", "ratio", "MiB ours", "PyTorch", "its form")


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": float(np.median(samples)),
        "min": float(min(samples)),
        "max": float(max(samples)),
    }


class Report:
    """Results of a run, shown one by one and written as soon as each is there."""

    def __init__(self, settings: Settings, words: Sequence[str]) -> None:
        """Begin a report; ``words`` are the command line's."""
        self._settings = settings
        self.record: dict[str, Any] = {
            "command": " ".join([_COMMAND, *public_words(words)]),
            "commit": _commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{_processor()}, {settings.threads} threads",
            "python": platform.python_version(),
            "settings": settings.told(),
            "cases": {},
        }

    def about(self, ours: dict, twin: dict) -> None:
        """Note what both sides are."""
        self.record |= {"ours": ours, "twin": twin}

    def add(
        self,
        case: str,
        ours_ms: Sequence[float],
        twin_ms: Sequence[float],
        facts: Mapping[str, Any],
    ) -> None:
        """Take the samples of a case, one of each side a round, and write."""
        ratios = [t / o for o, t in zip(ours_ms, twin_ms, strict=True)]
        found = {
            "ours_ms": spread(ours_ms),
            "twin_ms": spread(twin_ms),
            "ratio": spread(ratios),
            "samples": {"ours_ms": list(ours_ms), "twin_ms": list(twin_ms)},
            **facts,
        }
        self.record["cases"][case] = found
        print("  ".join(row(case, found, self._settings.device)), flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.record, indent=1) + "\n"
        self.path.write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Show the table, draw the plot."""
        picture = self.path.with_suffix(".png")
        draw(self.record, picture)
        print(f"\n{table(self.record)}\n\n{self.path}\n{picture}")

    @property
    def path(self) -> Path:
        """The JSON file; the plot lies beside it."""
        settings = self._settings
        name = settings.name or f"{kind(self.record)}_{settings.precision}"
        return Path(settings.output) / f"peers_{name}.json"


def kind(record: Mapping[str, Any]) -> str:
    """Kind of machine, for file names: ``cpu_2`` or the name of the GPU."""
    settings = record["settings"]
    if settings["device"] == "cpu":
        return f"cpu_{settings['threads']}"
    return re.sub(r"\W+", "_", record["twin"].get("device", "gpu")).strip("_").lower()


def row(case: str, found: Mapping[str, Any], device: str) -> list[str]:
    """One case for people; see ``_HEADS``.

    Memory is the GPU's arrays there, and the resident memory of the process on a CPU.
    """
    sides = [
        f"{side['median']:.2f} [{side['min']:.2f}, {side['max']:.2f}], "
        f"{found['items'] / side['median'] * 1e3:.0f}/s"
        for side in (found["ours_ms"], found["twin_ms"])
    ]
    counted = "rss_bytes" if device == "cpu" else "array_bytes"
    memory = [
        f"{found['memory'][side][counted] / 2**20:.0f}" for side in ("ours", "twin")
    ]
    return [case, *sides, _ratio(found["ratio"]), *memory, found["variant"]]


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"


def table(record: Mapping[str, Any]) -> str:
    """All cases, aligned, and below them the time to the goal."""
    device, cases = record["settings"]["device"], record["cases"]
    rows = [list(_HEADS), *(row(c, found, device) for c, found in cases.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip()
        for r in rows
    ]
    for found in cases.values():
        if "to_goal" in found:
            lines.append(_to_goal(found, record["settings"]["goal"]))
    return "\n".join(lines)


def _to_goal(found: Mapping[str, Any], goal: float) -> str:
    ours, twin = (found["to_goal"][side] for side in ("ours", "twin"))
    return (
        f"to cosine {goal}: ours {ours['seconds']:.1f} s ({ours['updates']} updates), "
        f"PyTorch {twin['seconds']:.1f} s ({twin['updates']}), "
        f"ratio {found['time_ratio']:.2f}"
    )


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw the ratio of every case, with its spread, against the line of PyTorch."""
    from matplotlib.figure import Figure

    cases = record["cases"]
    names, middles, errors = [], [], []
    for name, found in cases.items():
        ratio = found["ratio"]
        names.append(name.replace("_", " "))
        middles.append(ratio["median"])
        errors.append((ratio["median"] - ratio["min"], ratio["max"] - ratio["median"]))
        if "to_goal" in found:
            names.append("time to quality")
            middles.append(found["time_ratio"])
            errors.append((0.0, 0.0))
    figure = Figure(figsize=(6.4, 1.2 + 0.42 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    colors = [_OURS if middle >= 1 else _TWIN for middle in middles]
    axes.barh(names, middles, xerr=np.transpose(errors), color=colors, capsize=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    settings = record["settings"]
    axes.set_xlabel("PyTorch's time over ours: right of the line we are faster")
    axes.set_title(
        f"{kind(record)}, {settings['precision']}, batch {settings['batch']}"
    )
    figure.savefig(path, dpi=80)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for entry in info.read_text().splitlines() if info.exists() else ():
        if entry.startswith("model name"):
            return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"

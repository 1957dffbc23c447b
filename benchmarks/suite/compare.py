"""Today's figures against the stored ones: the rule, and the table.

A figure is slower when its cost (time, bytes, or the inverse of a rate) is more than
15 % above the stored one by the medians, and the two spreads (20th to 80th percentile)
do not touch: neither a small change nor a noisy hour is called a regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.suite.running import Figures

ALLOWED = 1.15
Verdict = Literal["", "SLOWER", "better", "new", "gone"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: Name of the benchmark.
        name: Name of the figure.
        unit: Its unit.
        now: 20th, 50th and 80th percentile today; None where it was not measured.
        stored: The same of the stored run.
        ratio: Cost today over the stored cost: above 1 is worse, whatever the unit.
        verdict: What the rule says.
    """

    benchmark: str
    name: str
    unit: str
    now: list[float] | None
    stored: list[float] | None
    ratio: float | None
    verdict: Verdict


def compared(
    benchmark: str, now: Figures, stored: Mapping[str, Any] | None
) -> list[Row]:
    """Rows of one benchmark.

    Args:
        benchmark: Its name.
        now: Today's figures.
        stored: Those of the stored run; None where it has none of this benchmark.
    """
    before = stored or {}
    rows = []
    for name, figure in now.items():
        old = before.get(name)
        if old is None or old["unit"] != figure["unit"]:
            made = (figure["unit"], figure["spread"], None, None, "new")
        else:
            ratio, verdict = judge(figure["unit"], figure["spread"], old["spread"])
            made = (figure["unit"], figure["spread"], old["spread"], ratio, verdict)
        rows.append(Row(benchmark, name, *made))
    for name in before.keys() - now.keys():
        unit, spread = before[name]["unit"], before[name]["spread"]
        rows.append(Row(benchmark, name, unit, None, spread, None, "gone"))
    return rows


def judge(
    unit: str, now: list[float], stored: list[float]
) -> tuple[float | None, Verdict]:
    """Ratio of the costs, and whether it is more than noise.

    Args:
        unit: Of both; a rate (``.../s``) is a cost upside down.
        now: 20th, 50th and 80th percentile.
        stored: The same of the stored run.
    """
    if unit.endswith("/s"):
        now, stored = stored, now
    (low, middle, high), (old_low, old_middle, old_high) = now, stored
    if old_middle <= 0:
        grown = middle > old_middle
        return (None, "SLOWER") if grown else (1.0, "")
    ratio = middle / old_middle
    if ratio > ALLOWED and low > old_high:
        return ratio, "SLOWER"
    if ratio < 1 / ALLOWED and high < old_low:
        return ratio, "better"
    return ratio, ""


def table(rows: Iterable[Row]) -> str:
    """Lines for people: figure, now, stored, ratio, verdict."""
    lines, last = [], None
    head = f"  {'figure':58} {'now':>24} {'stored':>18} {'ratio':>6}"
    for row in rows:
        if row.benchmark != last:
            lines += ["", row.benchmark]
            last = row.benchmark
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        now = "" if row.now is None else shown(row.now[1], row.unit) + _half(row.now)
        stored = "" if row.stored is None else shown(row.stored[1], row.unit)
        line = f"  {row.name:58} {now:>24} {stored:>18} {ratio:>6}  {row.verdict}"
        lines.append(line.rstrip())
    return "\n".join([head, *lines])


def shown(value: float, unit: str) -> str:
    """A number with its unit, short."""
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    if unit == "count":
        return f"{value:g}"
    return f"{value:.4g} {unit}"


def _half(spread: list[float]) -> str:
    """Half the spread in percent of the median; nothing for what does not vary."""
    low, middle, high = spread
    return f" ±{50 * (high - low) / middle:3.0f}%" if high > low else " " * 6

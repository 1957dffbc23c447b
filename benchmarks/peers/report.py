"""Table, JSON and plot of a comparison."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.settings import Settings


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
            "command": " ".join(["python -m benchmarks.peers.run", *words]),
            "commit": _commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{_processor()}, {settings.threads} threads",
            "python": platform.python_version(),
            "settings": settings.to_json(),
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
        facts: dict[str, Any],
    ) -> None:
        """Take the samples of a case, one of each side a round."""
        ratios = [t / o for o, t in zip(ours_ms, twin_ms, strict=True)]
        found = {
            "ours_ms": spread(ours_ms),
            "twin_ms": spread(twin_ms),
            "ratio": spread(ratios),
            "samples": {"ours_ms": list(ours_ms), "twin_ms": list(twin_ms)},
            **facts,
        }
        self.record["cases"][case] = found
        print(line(case, found), flush=True)

    def write(self) -> None:
        """Write the JSON file."""
        kind = f"{self._settings.device}_{self._settings.precision}"
        path = Path(self._settings.output) / f"peers_{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
        print(path)


def line(case: str, found: dict[str, Any]) -> str:
    """One case for people."""
    ours, twin, ratio = found["ours_ms"], found["twin_ms"], found["ratio"]
    rates = [found["items"] / side["median"] * 1e3 for side in (ours, twin)]
    return (
        f"{case:<12} ours {ours['median']:8.2f} ms ({rates[0]:6.0f}/s)  "
        f"PyTorch {twin['median']:8.2f} ms ({rates[1]:6.0f}/s)  "
        f"ratio {ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]  "
        f"{found.get('variant', '')}"
    )


def _processor() -> str:
    try:
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    except OSError:
        pass
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

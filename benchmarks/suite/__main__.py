"""How fast is everything here, and is anything slower than when it was last stored?

    python -m benchmarks.suite [--only NAME ...] [--store] [--strict] [--list]
        [--patience N]

Claim it would refute: no figure is worse than the stored one by more than its spread
and 15 % (``compare.py`` has the rule). Runs every benchmark in its short form, each in
a process of its own and within its limit, under ten minutes in all. The figures go to
``results/suite_KIND.json``, one file for each kind of machine: what was ``stored``, and
the ``latest`` run. ``--store`` makes this run the stored one.

Exit status 1 when a benchmark failed; with ``--strict`` also when something is slower
or a benchmark refutes its claim.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.ops.timing import commit
from benchmarks.suite import machine as machines
from benchmarks.suite.compare import Row, compared, table
from benchmarks.suite.entries import ENTRIES, MOST_SECONDS, Entry, chosen
from benchmarks.suite.running import Outcome, run
from energyflow_mlx.errors import InputError


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong word ends with exit status 2."""
    names = [entry.name for entry in ENTRIES]
    line = argparse.ArgumentParser(
        prog="python -m benchmarks.suite", description=(__doc__ or "").split("\n")[0]
    )
    line.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME")
    line.add_argument("--store", action="store_true", help="compare later runs with it")
    line.add_argument("--strict", action="store_true", help="fail on what is slower")
    line.add_argument("--list", action="store_true", help="say what would run, and end")
    line.add_argument(
        "--results", type=Path, default=machines.RESULTS, help="folder of stored runs"
    )
    line.add_argument(
        "--patience", type=int, default=1, help="times the limits, on a busy machine"
    )
    arguments = line.parse_args(words)
    if arguments.patience < 1:
        line.error(f"argument --patience: must be >= 1, got {arguments.patience}")
    return arguments


def show_entries() -> None:
    """Print every benchmark's short form and limit."""
    for entry in ENTRIES:
        print(f"{entry.name:22} at most {entry.limit_s:3} s   {entry.command}")
    total = sum(entry.limit_s for entry in ENTRIES)
    print(f"all together at most {total} s, of {MOST_SECONDS} s allowed")


def entry_record(entry: Entry, outcome: Outcome, facts: dict[str, Any]) -> dict:
    """What is kept of one benchmark."""
    return {
        "command": entry.command,
        "status": outcome.status,
        "note": outcome.note,
        "seconds": round(outcome.seconds, 1),
        **facts,
        "figures": outcome.figures,
    }


def run_all(
    entries: Sequence[Entry], stored: dict[str, Any], facts: dict[str, Any]
) -> tuple[dict[str, Any], list[Row]]:
    """Run the entries one after another; their records and compared figures.

    What one leaves of its limit the next may use: the sum stays.
    """
    latest, rows, left = {}, [], 0.0
    for entry in entries:
        print(f"{entry.name:22} ", end="", flush=True)
        outcome = run(entry, left)
        left = max(0.0, left + entry.limit_s - outcome.seconds)
        print(f"{outcome.seconds:6.1f} s  {outcome.status}  {outcome.note}", flush=True)
        latest[entry.name] = entry_record(entry, outcome, facts)
        if outcome.figures:
            before = stored.get(entry.name, {}).get("figures")
            rows += compared(entry.name, outcome.figures, before)
    return latest, rows


def kept(record: dict, latest: dict[str, Any], *, store: bool) -> dict[str, Any]:
    """What the file holds after a run.

    Args:
        record: What it held before.
        latest: The run, by benchmark.
        store: Make the run the stored one; what failed and what did not run stay.
    """
    if not store:
        return {"stored": record["stored"], "latest": latest}
    good = {name: run for name, run in latest.items() if run["status"] != "failed"}
    return {"stored": record["stored"] | good, "latest": {}}


def conclude(latest: dict[str, Any], rows: Sequence[Row], *, strict: bool) -> int:
    """Print what deserves a look; the exit status."""
    slower = [row for row in rows if row.verdict == "SLOWER"]
    failed = [name for name, r in latest.items() if r["status"] == "failed"]
    refuted = [name for name, r in latest.items() if r["status"] == "refuted"]
    idle = [name for name, r in latest.items() if r["status"] == "cannot run"]
    for title, names in (
        ("slower", [f"{row.benchmark}: {row.name}" for row in slower]),
        ("refutes its claim", refuted),
        ("cannot run here", idle),
        ("failed", failed),
    ):
        for name in names:
            print(f"{title:18} {name}  {latest.get(name, {}).get('note', '')}".rstrip())
    return int(bool(failed) or (strict and bool(slower or refuted)))


def suite(words: Sequence[str] | None = None) -> int:
    """Run, compare, keep, conclude."""
    arguments = parse(words)
    if arguments.list:
        show_entries()
        return 0
    here = machines.describe()
    path = machines.stored_file(here, arguments.results)
    record = machines.read(path)
    facts = {
        "mlx": here["mlx"],
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    started = time.perf_counter()
    entries = [
        entry.with_patience(arguments.patience) for entry in chosen(arguments.only)
    ]
    latest, rows = run_all(entries, record["stored"], facts)
    record = kept(record, latest, store=arguments.store)
    machines.write(path, here, record)
    print(f"\n{table(rows)}\n")
    print(f"{time.perf_counter() - started:.0f} s on {machines.kind(here)}: {path}")
    return conclude(latest, rows, strict=arguments.strict)


if __name__ == "__main__":
    try:
        sys.exit(suite())
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)

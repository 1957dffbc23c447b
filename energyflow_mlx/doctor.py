"""Say what this machine gives, and what to do about each shortfall.

    python -m energyflow_mlx.doctor              a table for people
    python -m energyflow_mlx.doctor json=true    one JSON object on standard output

The exit status is 1 when something is missing without which the main job cannot run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.runtime.diagnosis import Finding, examine

_STYLE = {"ok": "green", "slow": "yellow", "missing": "bold red"}


@dataclass
class DoctorArgs:
    """Say what this machine gives and what to do about shortfalls."""

    json: bool = field(default=False, metadata={"help": "print one JSON object"})


def doctor(args: DoctorArgs) -> None:
    """Examine the machine and print the findings; see the module."""
    findings = examine()
    ready = all(finding.level != "missing" for finding in findings)
    if args.json:
        sys.stdout.write(json.dumps(as_json(findings, ready)) + "\n")
    else:
        show(findings, ready, Console())
    if not ready:
        sys.exit(1)


def as_json(findings: Sequence[Finding], ready: bool) -> dict[str, object]:
    """Turn the findings into one object: ``ready``, then each finding by its name."""
    report: dict[str, object] = {"ready": ready}
    for finding in findings:
        report[finding.name] = {
            "level": finding.level,
            "value": finding.value,
            "advice": finding.advice,
            **finding.facts,
        }
    return report


def show(findings: Sequence[Finding], ready: bool, console: Console) -> None:
    """Print the findings as a table, then the advice, then the verdict."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        level = Text(finding.level, style=_STYLE[finding.level])
        table.add_row(finding.name, level, Text(finding.value, overflow="fold"))
    console.print(table)
    for finding in findings:
        if finding.advice:
            console.print(Text(f"{finding.name}: {finding.advice}"))
    console.print("Ready." if ready else "Not ready: see what is missing above.")


def main() -> None:
    """Command line; see the module."""
    cli.main(DoctorArgs, doctor)


if __name__ == "__main__":
    main()

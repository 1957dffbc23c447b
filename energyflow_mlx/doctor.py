"""Say what this machine gives, and what to do about each shortfall.

    energyflow doctor                a table for people
    energyflow doctor json=true      one JSON object on standard output
    energyflow doctor kernels        every operation against its reference, timed

The exit status is 1 when something is missing without which the main job cannot run, or
when an operation gives wrong numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import energyflow_mlx
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.files import require_output
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.diagnosis import Finding, examine
from energyflow_mlx.runtime.json_text import json_text

if TYPE_CHECKING:
    from energyflow_mlx.runtime.kernel_check import Checked

_STYLE = {"ok": "green", "slow": "yellow", "missing": "bold red"}
_COLUMNS = ("operation", "form", "dtype", "error", "tolerance", "ms", "plain ms")


@dataclass
class DoctorArgs:
    """Say what this machine gives and what to do about shortfalls."""

    json: bool = field(default=False, metadata={"help": "print one JSON object"})
    kernels: bool = field(
        default=False,
        metadata={"help": "check every operation; the word `kernels` alone will do"},
    )
    report: str = field(
        default="doctor.json", metadata={"help": "file of that check, to send back"}
    )


def doctor(args: DoctorArgs) -> None:
    """Examine the machine or its operations and print what was found; see the module.

    Raises:
        InputError: The report's name will not do; nothing was checked.
    """
    if args.kernels:
        require_output(args.report, ".json")
    findings = examine()
    ready = all(finding.level != "missing" for finding in findings)
    has_mlx = all(f.level == "ok" for f in findings if f.name == "mlx")
    if args.kernels and has_mlx:
        ready = _check_kernels(args)
    elif args.json:
        sys.stdout.write(json_text(as_json(findings, ready)) + "\n")
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


# The operations ----------------------------------------------------------------------


def _check_kernels(args: DoctorArgs) -> bool:
    """Check every operation, print and write what was found; whether all are right."""
    from energyflow_mlx.runtime.kernel_check import check_operations

    console = Console(stderr=args.json)
    with console.status("operations") as status:
        found = list(check_operations(lambda op: status.update(f"checking {op}")))
    report = kernel_report(found)
    if args.json:
        sys.stdout.write(json_text(report) + "\n")
    else:
        show_kernels(found, console)
    write_text(Path(args.report), json_text(report, indent=1) + "\n")
    if not args.json:
        console.print(Text(f"{report['device']}: wrote {args.report}"))
    return bool(report["ok"])


def kernel_report(found: Sequence[Checked]) -> dict[str, Any]:
    """Machine, versions and results, to be sent to others: no paths, no names of users.

    Args:
        found: What was found of each operation.
    """
    import platform

    import numpy as np

    from energyflow_mlx.runtime import blas, device, native

    here = device.describe()
    rows = [c._asdict() | {"error": min(c.error, 9e99)} for c in found]
    return {
        "ok": all(c.ok for c in found),
        "device": str(here),
        "architecture": here.architecture,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {
            "energyflow_mlx": energyflow_mlx.__version__,
            "mlx": here.mlx_version,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "blas": str(blas.info()),
        "native": native.info().status,
        "operations": rows,  # JSON has no infinity: 9e99
    }


def show_kernels(found: Sequence[Checked], console: Console) -> None:
    """Print a row for each operation and dtype, then what failed and where."""
    table = Table(box=None, pad_edge=False)
    for name in (*_COLUMNS, ""):
        table.add_column(name, no_wrap=True)
    for c in found:
        times = ["" if t is None else f"{t:.2f}" for t in (c.ms, c.reference_ms)]
        verdict = Text("ok", "green") if c.ok else Text("wrong", "bold red")
        numbers = (f"{c.error:.1e}", f"{c.tolerance:.1e}", *times)
        table.add_row(c.op, c.form, c.dtype, *numbers, verdict)
    console.print(table)
    for c in found:
        if not c.ok:
            console.print(Text(f"{c.op}, {c.dtype}: wrong on {c.worst}"))
    if not found:
        console.print("No operation has a form of its own here; see the doctor.")
    elif all(c.ok for c in found):
        console.print(f"All of {sum(c.cases for c in found)} cases agree.")


def main() -> None:
    """Command line; see the module."""
    cli.main(DoctorArgs, doctor)


if __name__ == "__main__":
    main()

"""What machine this is, and the file that keeps the runs of its kind."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime import blas, device
from energyflow_mlx.runtime.atomic import write_text

import mlx.core as mx  # isort: skip  after the package, which brings the BLAS
import numpy as np  # isort: skip

from benchmarks.suite.entries import CHECKOUT

RESULTS = CHECKOUT / "benchmarks" / "results"


def describe() -> dict[str, Any]:
    """Device, cores and versions of this machine."""
    here = device.describe()
    return {
        "backend": here.backend,
        "device": here.name,
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mlx": mx.__version__,
        "numpy": np.__version__,
        "blas": str(blas.info()),
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kind(machine: dict[str, Any]) -> str:
    """Name of the machines whose figures can be compared: backend, cores, device."""
    name = re.sub(r"\((r|tm)\)|processor", "", machine["device"].lower())
    words = re.findall(r"[a-z0-9]+", name)
    count = [str(machine["cores"])] if machine["backend"] == "cpu" else []
    return "_".join([machine["backend"], *count, *words])


def stored_file(machine: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Where the runs of this kind of machine are kept."""
    return folder / f"suite_{kind(machine)}.json"


def read(path: Path) -> dict[str, Any]:
    """Read the stored runs; an empty record when there are none.

    Raises:
        InputError: The file is not a record of the suite.
    """
    if not path.exists():
        return {"stored": {}, "latest": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"stored": record["stored"], "latest": record["latest"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"[suite] {path}: expected a JSON record with 'stored' and 'latest', got "
            "something else; move it away to begin a new one."
        ) from None


def write(path: Path, machine: dict[str, Any], record: dict[str, Any]) -> None:
    """Write the record, whole or not at all, a benchmark a line."""
    parts = [f'"machine": {json.dumps(machine)}']
    for name in ("stored", "latest"):
        items = record[name].items()
        runs = ",\n".join(f"  {json.dumps(k)}: {json.dumps(run)}" for k, run in items)
        parts.append(f'"{name}": {{\n{runs}\n }}' if runs else f'"{name}": {{}}')
    write_text(path, "{\n " + ",\n ".join(parts) + "\n}\n")

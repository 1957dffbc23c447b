"""The lattice presets without Hydra, for scripts that run on a bare checkout.

Import this before ``mlx``: the package brings the BLAS of the CPU.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from energyflow_mlx.config.lattice import LatticeConfig

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "lattice"


def read_preset(name: str, overrides: Sequence[str] = ()) -> LatticeConfig:
    """Read ``conf/lattice/<name>.yaml``, flat ``key: value`` lines, and overrides.

    Args:
        name: ``debug``, ``experiment`` or ``optimized``.
        overrides: ``key=value`` texts.
    """
    values = {}
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        key, colon, value = line.split("#")[0].partition(":")
        if colon and key.strip() != "defaults":
            values[key.strip()] = _parse(value.strip())
    for text in overrides:
        key, _, value = text.partition("=")
        values[key] = _parse(value)
    return LatticeConfig(**values)


def _parse(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value

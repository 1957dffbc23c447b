"""The lattice presets without Hydra, for scripts that run on a bare checkout.

Import this before ``mlx``: the package brings the BLAS of the CPU.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from energyflow_mlx.config.lattice import LatticeConfig

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "lattice"


def read_preset(name: str, overrides: Sequence[str] = ()) -> LatticeConfig:
    """Read ``conf/lattice/<name>.yaml``, groups of ``key: value`` lines, and overrides.

    Args:
        name: ``debug``, ``experiment`` or ``optimized``.
        overrides: ``group.key=value`` texts, e.g. ``cube.width=30``.
    """
    values: dict[str, Any] = {}
    group = ""
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        key, _, value = line.split("#")[0].rstrip().partition(":")
        if key.startswith(" "):
            values[f"{group}.{key.strip()}"] = _parse(value.strip())
        group = group if key.startswith(" ") else key
    for text in overrides:
        key, _, value = text.partition("=")
        values[key] = _parse(value)
    return _nest(values)


def _nest(values: Mapping[str, Any]) -> LatticeConfig:
    """Lattice config of dotted keys, the rest as the defaults."""
    groups: dict[str, dict[str, Any]] = {f.name: {} for f in fields(LatticeConfig)}
    for key, value in values.items():
        group, _, name = key.partition(".")
        groups[group][name] = value
    kinds: dict[str, Any] = {f.name: f.default_factory for f in fields(LatticeConfig)}
    return LatticeConfig(**{name: kinds[name](**own) for name, own in groups.items()})


def _parse(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value

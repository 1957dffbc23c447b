"""One self-contained HTML page that shows the flows' paths through the cube.

The page holds its style, its script and its data and loads nothing. Real numbers are
stored as 16-bit codes on an even grid between their least and greatest value, base64;
all integers are unsigned 16-bit, little-endian.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord, describe
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text

_FILES = ("theme.css", "page.css", "cube.js", "pick.js", "relate.js", "page.js")
_CODES = 65535  # greatest code of a quantized number
_SHOWN_ENERGY = 99.5  # percentile of |energy| at which the colors end


def write_page(
    path: Path, cube: Cube, records: Sequence[FlowRecord], title: str
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file; its folder is created when missing.
        cube: What the sentences have in common.
        records: At least one sentence, in the order of the page's list.
        title: Name of the run.
    """
    write_text(Path(path), page_text(cube, records, title))
    return Path(path)


def page_text(cube: Cube, records: Sequence[FlowRecord], title: str) -> str:
    """The page of ``write_page`` as HTML; arguments as there."""
    data = json_text(pack(cube, records, title))
    # Inside a script element only "<" can end or open anything.
    parts = {"data": data.replace("<", "\\u003c")}
    parts |= {name: read(name) for name in _FILES}
    return fill(read("page.html"), parts)


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Put every part where its name stands in a template as ``/* name */``."""
    for name, part in parts.items():
        before, _, after = template.partition(f"/* {name} */")
        template = before + part + after
    return template


def read(name: str) -> str:
    """Text of a file that stands beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def pack(cube: Cube, records: Sequence[FlowRecord], title: str) -> dict[str, Any]:
    """What the page shows, as plain JSON values.

    Raises:
        ValueError: A number is not finite.
    """
    energies = np.concatenate([np.abs(r.energy[r.alive]) for r in records])
    limit = float(np.percentile(energies, _SHOWN_ENERGY)) if energies.size else 0.0
    return {
        "title": title,
        "width": cube.width,
        "height": cube.height,
        "steps": cube.steps,
        "start": cube.start_z,
        "dual": cube.is_dual,
        "limit": limit or 1.0,
        "sentences": [_pack_record(cube, record) for record in records],
    }


def _pack_record(cube: Cube, record: FlowRecord) -> dict[str, Any]:
    origin = record.position[record.born, np.arange(len(record.born))]
    return {
        "text": record.text,
        "result": record.result,
        "statistics": list(describe(record.statistics, is_dual=cube.is_dual).items()),
        "flows": len(record.age),
        "position": quantize(record.position),
        "energy": quantize(record.energy),
        "born": _pack_integers(record.born),
        "arrived": _pack_integers(record.arrived),
        "far": _pack_integers(record.landed[:, 2] > 0),
        "start": _pack_integers(_cells(cube, origin)),
        "end": _pack_integers(_cells(cube, record.landed)),
        "input": quantize(record.surface_in),
        "output": quantize(record.surface_out),
        "parent": _pack_integers(record.parent + 1),
        "worth": quantize(record.worth),
        "field": None if record.field is None else _pack_field(record.field),
    }


def _pack_field(field: np.ndarray) -> dict[str, Any]:
    """Sums of a medium ``[T + 1, N, N, N]`` along z and along y, ``[y, x], [z, x]``."""
    from_front, from_above = field.sum(axis=3), field.sum(axis=2)
    views = np.stack([from_front, from_above], axis=1).swapaxes(2, 3)
    return {"edge": field.shape[1], "views": quantize(views)}


def _cells(cube: Cube, position: np.ndarray) -> np.ndarray:
    """Number of the cell that is nearest to each position, row by row, ``[F]``."""
    size = np.array([cube.width, cube.height]) - 1
    column, row = np.rint((position[:, :2] + 1) / 2 * size).astype(int).T
    return row * cube.width + column


def quantize(values: np.ndarray) -> dict[str, Any]:
    """Codes of numbers: ``value = low + step * code``, off by half a step at most.

    Raises:
        ValueError: A number is not finite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("[page] numbers must be finite, got NaN or infinity.")
    low = float(values.min(initial=np.inf)) if values.size else 0.0
    step = (float(values.max()) - low) / _CODES if values.size else 0.0
    codes = np.rint((values - low) / (step or 1.0))
    return {"low": low, "step": step, "codes": _pack_integers(codes)}


def _pack_integers(values: np.ndarray) -> str:
    codes = np.ascontiguousarray(values, dtype="<u2")
    return base64.b64encode(codes.tobytes()).decode("ascii")

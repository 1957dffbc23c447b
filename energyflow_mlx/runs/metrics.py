"""The metrics log of a run: append-only JSON lines, one flat object per record.

Every record stands on its own line, so a run killed in the middle of a write leaves
at most one torn last line; readers skip it and the next writer cuts it off. JSON has no
NaN: a non-finite value is stored as ``null`` and named under ``"non_finite"``, from
which ``read_metrics`` restores it, for example::

    {"step": 7, "loss": null, "non_finite": {"loss": "nan"}}
"""

import json
import logging
import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.received import read_bytes, require_type

logger = logging.getLogger(__name__)

NON_FINITE = "non_finite"


class MetricsLog:
    """Appends records to a metrics file.

    A record is handed to the operating system before ``write`` returns, so it survives
    the death of the process; ``flush_to_disk`` makes it survive a power cut too.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self.path)
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record of plain scalars (Python or NumPy numbers, text, None).

        Raises:
            TypeError: A value is no scalar; lazy arrays in particular are refused,
                since a log must never be what evaluates a graph.
        """
        self._file.write(_encode(record) + "\n")
        self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Drop the records of later steps, so that a resumed run logs them anew.

        Records without a ``step`` stay. The file is replaced atomically.
        """
        self._file.close()
        kept = [r for r in read_metrics(self.path) if r.get("step", step) <= step]
        write_text(self.path, "".join(_encode(record) + "\n" for record in kept))
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def flush_to_disk(self) -> None:
        """Force everything written so far to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class NoLog(MetricsLog):
    """The log of a process that writes no files: takes records and drops them."""

    def __init__(self) -> None:
        pass

    def write(self, record: Mapping[str, Any]) -> None:
        """Drop the record."""

    def truncate_after(self, step: int) -> None:
        """Nothing to truncate."""

    def flush_to_disk(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to close."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the records of a metrics file, non-finite values restored.

    A last line without its line end is what a kill leaves behind, and is skipped.

    Raises:
        InputError: The file is missing or a complete line is damaged; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"[metrics] {path}: must be a metrics file, got none there.")
    lines = read_bytes(path, "metrics").split(b"\n")
    if lines.pop():
        logger.warning("[metrics] %s: skipped a torn last line", path)
    return [_decode(path, number, line) for number, line in enumerate(lines, 1)]


def _encode(record: Mapping[str, Any]) -> str:
    row: dict[str, Any] = {}
    non_finite: dict[str, str] = {}
    for key, plain in plain_record(record).items():
        row[key] = plain
        if isinstance(plain, float) and not math.isfinite(plain):
            row[key] = None
            non_finite[key] = str(plain)
    if non_finite:
        row[NON_FINITE] = non_finite
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is read back: Python numbers, text, truth values and None.

    Raises:
        TypeError: A value is no scalar.
        ValueError: A key is no text, or one that the file needs for itself.
    """
    for key in record:
        if not isinstance(key, str) or key == NON_FINITE:
            raise ValueError(
                f"[metrics] keys must be strings other than '{NON_FINITE}', got {key!r}"
            )
    return {key: _plain(key, value) for key, value in record.items()}


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(
        f"[metrics] '{key}' must be a number, a text or None, "
        f"got {type(value).__module__}.{type(value).__name__}."
    )


def _decode(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"[metrics] {path}: line {number} must be a JSON object, got {error}."
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f"[metrics] {path}: line {number} must be a JSON object, got "
            f"{type(row).__name__}."
        )
    restored = row.pop(NON_FINITE, {})
    where = f"[metrics] {path}: line {number}: {NON_FINITE}"
    require_type(restored, dict[str, Literal["nan", "inf", "-inf"]], where)
    return row | {key: float(value) for key, value in restored.items()}


def _cut_torn_line(path: Path) -> None:
    """Remove what a killed writer left after the last line end."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        logger.warning("[metrics] %s: cut %d torn bytes", path, len(data) - whole)
        os.truncate(path, whole)

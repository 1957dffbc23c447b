"""The metrics log of a run: append-only JSON lines, one flat object per record.

Every record stands on its own line, so a run killed in the middle of a write leaves
at most one torn last line; readers skip it and the next writer cuts it off. JSON has no
NaN: a non-finite value is stored as ``null`` and named under ``"non_finite"``, from
which ``read_metrics`` restores it, for example::

    {"step": 7, "loss": null, "non_finite": {"loss": "nan"}}

Every line ends with a digest: half of it is of the line itself, half of the digests up
to there. So a reader sees a changed line, which it names and leaves out, and where
lines are missing. Lines of earlier versions have none.
"""

import hashlib
import json
import logging
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.disk import writing
from energyflow_mlx.runtime.received import finite, read_bytes

logger = logging.getLogger(__name__)

NON_FINITE = "non_finite"
DIGEST = "digest"
_HALF = 8  # hexadecimal digits
_SIGNED = re.compile(rb'(.*?),? ?"digest": "([0-9a-f]{8})([0-9a-f]{8})"\}')
_CUT = re.compile(rb'"[0-9a-f]{16}"\}$')  # a digest whose key was damaged


class MetricsLog:
    """Appends records to a metrics file.

    A record is handed to the operating system before ``write`` returns, so it survives
    the death of the process; ``flush_to_disk`` makes it survive a power cut too.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self.path)
            self._chain = digest_at_end(self.path)
            self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record of plain scalars (Python or NumPy numbers, text, None).

        Raises:
            TypeError: A value is no scalar; lazy arrays in particular are refused,
                since a log must never be what evaluates a graph.
            DiskError: The disk is full; what it took of the line is cut off later.
        """
        line, self._chain = _signed(_encode(record), self._chain)
        with writing(self.path):
            self._file.write(line)
            self._file.flush()

    @property
    def digest(self) -> str:
        """Digest of all records so far, eight hexadecimal digits; empty without any."""
        return self._chain

    def truncate_after(self, step: int, digest: str = "") -> None:
        """Drop the records of later steps, so that a resumed run logs them anew.

        Records without a ``step`` stay, damaged lines do not. The file is replaced
        atomically, with digests throughout.

        Args:
            step: The last one that stays.
            digest: What ``digest`` was at that step, where it is known; a warning says
                when records have gone since.
        """
        self._file.close()
        records, damage, _ = _read(self.path)
        lines, chain = [], ""
        for record in records:
            if record.get("step", step) <= step:
                line, chain = _signed(_encode(record), chain)
                lines.append(line)
        if digest not in ("", chain):
            damage.append(f"lines up to step {step} are missing at its end")
        _warn(self.path, damage)
        write_text(self.path, "".join(lines))
        self._open()

    def flush_to_disk(self) -> None:
        """Force everything written so far to the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        with writing(self.path):  # what a full disk did not take is tried once more
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

    @property
    def digest(self) -> str:
        """No digest."""
        return ""

    def truncate_after(self, step: int, digest: str = "") -> None:
        """Nothing to truncate."""

    def flush_to_disk(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to close."""


def read_metrics(path: Path, digest: str = "") -> list[dict[str, Any]]:
    """Read the records of a metrics file, non-finite values restored.

    A last line without its line end is what a kill leaves behind, and is skipped. A
    damaged line is left out, and a warning names it.

    Args:
        path: The file.
        digest: What ``MetricsLog.digest`` was at some record, where that is known; a
            warning says when the file ends before it.

    Raises:
        InputError: The file is missing, or none.
    """
    path = Path(path)
    records, damage, chains = _read(path)
    if not damage and digest not in chains:
        damage = ["lines that the newest checkpoint knows of are missing at its end"]
    _warn(path, damage)
    return records


def _read(path: Path) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """The records of a file's whole lines, what is wrong with others, the chain."""
    lines = read_bytes(path, "metrics").split(b"\n")
    damage = ["skipped a torn last line"] if lines.pop() else []
    records = []
    chains = [""]
    chain: str | None = ""  # none: after a damaged line it is unknown
    for number, line in enumerate(lines, 1):
        signed = _SIGNED.fullmatch(line)
        # Lines of an earlier version come before all that have a digest.
        is_whole = signed or not chain and not _CUT.search(line)
        record = _decode(line) if is_whole else None
        if record is None or signed and signed[2].decode() != _half(signed[1]):
            damage.append(f"line {number} is damaged and left out")
            chain = None
            continue
        records.append(record)
        if signed:
            own, follows = signed[2].decode(), signed[3].decode()
            if chain is not None and follows != _chained(chain, own):
                damage.append(f"before line {number} there are lines missing")
            chain = follows
            chains.append(follows)
    return records, damage, chains


def _warn(path: Path, damage: Sequence[str]) -> None:
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        logger.warning("[metrics] %s: %s%s", path, damage[0], more)


def _half(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HALF]


def _chained(chain: str, own: str) -> str:
    return _half(f"{chain}{own}".encode())


def _signed(text: str, chain: str) -> tuple[str, str]:
    """The line of a record, and the chain of digests that ends with it.

    Args:
        text: The record as JSON.
        chain: That of the line before; empty at the start.
    """
    body = text.removesuffix("}")
    own = _half(body.encode())
    chain = _chained(chain, own)
    comma = "" if body == "{" else ", "
    return f'{body}{comma}"{DIGEST}": "{own}{chain}"}}\n', chain


def digest_at_end(path: Path) -> str:
    """What ``MetricsLog.digest`` is of a file; empty where there is none."""
    lines = read_bytes(path, "metrics").splitlines() if path.exists() else []
    signed = (_SIGNED.fullmatch(line) for line in reversed(lines))
    return next((match[3].decode() for match in signed if match), "")


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
        if not isinstance(key, str) or key in (NON_FINITE, DIGEST):
            raise ValueError(
                f"[metrics] keys must be strings other than '{NON_FINITE}' and "
                f"'{DIGEST}', got {key!r}"
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


def _decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line; none where it is damaged."""
    try:
        row = json.loads(line, parse_constant=finite)
        if not isinstance(row, dict) or (DIGEST in row and not _SIGNED.fullmatch(line)):
            return None
        row.pop(DIGEST, None)
        for key, value in row.pop(NON_FINITE, {}).items():
            row[key] = float(value)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return row


def _cut_torn_line(path: Path) -> None:
    """Remove what a killed writer left after the last line end."""
    if not path.exists():
        return
    data = read_bytes(path, "metrics")
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        logger.warning("[metrics] %s: cut %d torn bytes", path, len(data) - whole)
        os.truncate(path, whole)

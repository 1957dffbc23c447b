"""Files of the Swift reference trainer: EFCK1 projections and EFOP1 AdamW moments.

Kept for interchange only; a run's own state lives in ``checkpoint.py``. Both formats
are little-endian without padding::

    EFCK1  "EFCK1", u32 out, u32 in, u32 has_bias (0 or 1),
           out * in f32 weight row by row, out f32 bias if has_bias
    EFOP1  "EFOP1", u32 step, u32 parameters,
           per parameter: u32 n, n f32 first moment, n f32 second moment

Source: ``CheckpointIO.swift`` and ``AdamW.swift`` of LL1yt/EnergyFlowSwift. The five
magic bytes leave every number unaligned, so fields are read through byte copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_aside
from energyflow_mlx.runtime.received import read_bytes

_F32 = np.dtype("<f4")
_U32_MAX = 2**32 - 1


@dataclass(frozen=True)
class Projection:
    """A linear layer: ``weight [out, in]``, ``bias [out]`` or None; float32."""

    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class AdamMoments:
    """Flat AdamW moments of each parameter, ``(first [n], second [n])``, float32."""

    step: int
    moments: list[tuple[np.ndarray, np.ndarray]]


def read_efck1(path: Path) -> Projection:
    """Read a projection.

    Raises:
        InputError: The file is missing, foreign, truncated, too long or holds a
            non-finite number; names the path and byte offset.
    """
    reader = _Reader(path, b"EFCK1")
    out = reader.count("out")
    width = reader.count("in")
    has_bias = reader.u32()
    if has_bias > 1:
        raise reader.error("has_bias must be 0 or 1", has_bias, 13)
    weight = reader.floats("weight", out * width).reshape(out, width)
    bias = reader.floats("bias", out) if has_bias else None
    reader.end()
    return Projection(weight, bias)


def write_efck1(path: Path, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Write a projection, atomically.

    Args:
        path: The file.
        weight: ``[out, in]``, stored as float32.
        bias: ``[out]``, or None.

    Raises:
        ValueError: A shape does not fit.
        InputError: A value is not finite in float32.
    """
    weight = _storable("weight", weight)
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"[efck1] weight must be [out, in], got {list(weight.shape)}.")
    parts = [b"EFCK1", _u32(weight.shape[0]), _u32(weight.shape[1])]
    parts += [_u32(bias is not None), weight.tobytes()]
    if bias is not None:
        bias = _storable("bias", bias)
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"[efck1] bias must be [{weight.shape[0]}], got {list(bias.shape)}."
            )
        parts.append(bias.tobytes())
    with write_aside(Path(path)) as aside:
        aside.write_bytes(b"".join(parts))


def read_efop1(path: Path, sizes: Sequence[int] | None = None) -> AdamMoments:
    """Read optimizer moments.

    Args:
        path: The file.
        sizes: Expected number of values of each parameter, in order; None takes what
            is there.

    Raises:
        InputError: As for ``read_efck1``, and when ``sizes`` differ.
    """
    reader = _Reader(path, b"EFOP1")
    step = reader.u32()
    count = reader.u32()
    if sizes is not None and count != len(sizes):
        raise reader.error(f"parameters must be {len(sizes)}", count, 9)
    moments = []
    for index in range(count):
        offset = reader.offset
        size = reader.count(f"size of parameter {index}")
        if sizes is not None and size != sizes[index]:
            message = f"size of parameter {index} must be {sizes[index]}"
            raise reader.error(message, size, offset)
        first = reader.floats(f"first moment {index}", size)
        moments.append((first, reader.floats(f"second moment {index}", size)))
    reader.end()
    return AdamMoments(step, moments)


def write_efop1(
    path: Path, step: int, moments: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Write optimizer moments, atomically; the given arrays are only read.

    Args:
        path: The file.
        step: Number of optimizer steps so far.
        moments: First and second moment of each parameter, of one shape each; stored
            flat, row by row.

    Raises:
        ValueError: A pair differs in shape.
        InputError: A value is not finite in float32.
    """
    parts = [b"EFOP1", _u32(step), _u32(len(moments))]
    for index, (first, second) in enumerate(moments):
        if np.shape(first) != np.shape(second) or np.size(first) == 0:
            raise ValueError(
                f"[efop1] moments {index} must be two arrays of one shape, got "
                f"{list(np.shape(first))} and {list(np.shape(second))}."
            )
        parts.append(_u32(np.size(first)))
        parts.append(_storable(f"first moment {index}", first).tobytes())
        parts.append(_storable(f"second moment {index}", second).tobytes())
    with write_aside(Path(path)) as aside:
        aside.write_bytes(b"".join(parts))


class _Reader:
    """Reads fields in order and knows where each one starts."""

    def __init__(self, path: Path, magic: bytes) -> None:
        self.path = Path(path)
        self.room = magic.decode().lower()
        self.data = read_bytes(self.path, self.room)
        self.offset = 0
        found = self.data[: len(magic)]
        if found != magic:
            raise self.error(f"magic must be {magic!r}", repr(found), 0)
        self.offset = len(magic)

    def error(self, claim: str, got: object, offset: int) -> InputError:
        """Describe a byte that must not be there."""
        return InputError(
            f"[{self.room}] {self.path}: {claim}, got {got}, at byte {offset}."
        )

    def take(self, name: str, size: int) -> bytes:
        """Take the next ``size`` bytes."""
        left = len(self.data) - self.offset
        if size > left:
            claim = f"truncated: {name} must be {size} bytes"
            raise self.error(claim, left, self.offset)
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def u32(self) -> int:
        """Take a little-endian unsigned number."""
        return int.from_bytes(self.take("number", 4), "little")

    def count(self, name: str) -> int:
        """Take a number that must not be 0."""
        value = self.u32()
        if value == 0:
            raise self.error(f"{name} must be at least 1", 0, self.offset - 4)
        return value

    def floats(self, name: str, size: int) -> np.ndarray:
        """Take finite float32 numbers, little-endian."""
        start = self.offset
        values = np.frombuffer(self.take(name, 4 * size), _F32).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            offset = start + 4 * int(bad[0])
            raise self.error(f"{name} must be finite", values[bad[0]], offset)
        return values

    def end(self) -> None:
        """Refuse bytes after the last field."""
        left = len(self.data) - self.offset
        if left:
            raise self.error("file must end", f"{left} more bytes", self.offset)


def _u32(value: int) -> bytes:
    if not 0 <= value <= _U32_MAX:
        raise ValueError(f"[swift_files] number must fit in 32 bits, got {value}.")
    return int(value).to_bytes(4, "little")


def _storable(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # reported below, by name
        narrow = np.asarray(values, dtype=_F32)
    if not np.all(np.isfinite(narrow)):
        raise InputError(f"[swift_files] {name} must be finite in float32.")
    return narrow

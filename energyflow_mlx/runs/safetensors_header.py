"""The header of a safetensors file, checked before MLX is given the file.

A file is ``u64 n``, ``n`` bytes of JSON, and the arrays back to back. The JSON names
each array with its ``dtype``, ``shape`` and ``data_offsets``; ``__metadata__`` holds
texts. Arrays must lie in the file without gap or overlap, and be as large as their
shapes say: what a reader allocates for them is then what the file honestly has.

Source: the format's description in huggingface/safetensors, ``README.md``.
"""

import math
import os
import struct
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import (
    MOST_JSON,
    open_file,
    parse_json,
    require_memory,
    require_type,
)

_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
# Bytes of an element; what MLX reads.
_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_MOST_SIDE = 2**31 - 1  # of an array of MLX
_MOST_SIDES = 8


def check_safetensors(path: Path, room: str) -> dict[str, tuple[int, ...]]:
    """Refuse a file whose header is not the one that its bytes have.

    Args:
        path: The file.
        room: What reads it, for messages.

    Returns:
        The shape of every array by name.

    Raises:
        InputError: It is missing, no file, no safetensors file, or larger than this
            machine's memory.
    """
    with open_file(path, room) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else -1
        if not 2 <= length <= min(MOST_JSON, size - _LENGTH.size):
            raise _refused(path, room, f"a header of {length} bytes in {size}")
        text = file.read(length)
    require_memory(size, path, room)
    try:
        header = parse_json(text.decode("utf-8"), path, room)
    except UnicodeDecodeError as error:
        raise _refused(path, room, f"a header that is not UTF-8: {error}") from None
    where = f"[{room}] {path}: the header"
    require_type(header, dict[str, dict[str, Any] | None], where)
    metadata = header.pop(_METADATA, None)  # MLX writes null where there is none
    require_type(metadata, dict[str, str] | None, f"{where}'s {_METADATA}")
    shapes, spans = {}, []
    for name, entry in header.items():
        shape, begin, end = _entry(entry, f"{where}'s {name[:80]!r}")
        shapes[name] = shape
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise _refused(path, room, f"{name[:80]!r} at byte {begin}, not {at}")
        at = end
    if at != size - _LENGTH.size - length:
        rest = size - _LENGTH.size - length
        raise _refused(path, room, f"arrays of {at} bytes in {rest}")
    return shapes


def _entry(entry: Any, where: str) -> tuple[tuple[int, ...], int, int]:
    """Shape, first byte and end of one array."""
    require_type(entry, dict[str, Any], where)
    dtype, shape, place = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BYTES:
        got = repr(dtype)[:40]
        raise InputError(f"{where} must be of a dtype {', '.join(_BYTES)}, got {got}.")
    require_type(shape, list[int], f"{where}: shape")
    require_type(place, list[int], f"{where}: data_offsets")
    assert shape is not None and place is not None
    if len(shape) > _MOST_SIDES or not all(0 <= n <= _MOST_SIDE for n in shape):
        raise InputError(
            f"{where} must have at most {_MOST_SIDES} sides of 0 to {_MOST_SIDE}, got "
            f"{str(shape)[:60]}."
        )
    need = math.prod(shape) * _BYTES[dtype]
    if len(place) != 2 or not 0 <= place[0] or place[1] - place[0] != need:
        raise InputError(f"{where} must have {need} bytes, got {str(place)[:60]}.")
    return tuple(shape), place[0], place[1]


def _refused(path: Path, room: str, got: str) -> InputError:
    return InputError(f"[{room}] {path}: must be a safetensors file, got {got}.")

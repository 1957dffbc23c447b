"""Files that someone sent: opened without waiting, read within bounds, JSON checked.

A model, a run or a data folder may come from anybody. So a path is opened only where a
regular file lies behind it (a pipe or a device would never end), no more is read than
the kind of file can honestly have, and JSON is taken in the plain form that this
package writes: no key twice, no number beyond 64 digits, no NaN, few levels.
"""

import dataclasses
import errno
import json
import math
import os
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from energyflow_mlx.errors import InputError

MIB = 1 << 20
MOST_JSON = 4 * MIB  # a file of settings, figures or digests
MOST_TOKENIZER = 64 * MIB  # the largest published ones have some 35 MB
MOST_LEVELS = 32  # of lists and objects in each other
_MOST_DIGITS = 64
# A file this large that is nearly all holes was made to look large.
_LARGE, _HOLES = 64 * MIB, 16
_MOST_PIECES = 64  # of data between holes that are looked at
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LEAVES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}

T = TypeVar("T")


# Files -------------------------------------------------------------------------------


def require_file(path: Path, room: str) -> int:
    """Refuse a path that is to be handed to a library unless a file lies there.

    Args:
        path: The file, or a link to it.
        room: What reads it, for messages.

    Returns:
        Its size in bytes.

    Raises:
        InputError: As for ``open_file``.
    """
    with open_file(path, room) as file:
        return os.fstat(file.fileno()).st_size


def is_there(path: Path) -> bool:
    """Whether a name is taken, be it by a link that leads nowhere."""
    return os.path.lexists(path)


def open_file(path: Path, room: str) -> BinaryIO:
    """Open a regular file for reading; whatever else lies there never blocks.

    Args:
        path: The file, or a link to it.
        room: What reads it, for messages.

    Raises:
        InputError: It is missing, no regular file, not readable, or large and nearly
            all holes.
    """
    try:
        _require_regular(os.stat(path), path, room)
        # Without waiting, should a pipe have taken its place since.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"[{room}] {path}: no such file.") from None
    except OSError as error:
        reason = error.strerror
        raise InputError(f"[{room}] {path}: not readable: {reason}.") from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in the name
        raise InputError(f"[{room}] {str(path)!r}: no file name: {error}.") from None
    try:
        found = os.fstat(descriptor)
        _require_regular(found, path, room)
        _require_data(descriptor, found.st_size, path, room)
    except InputError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, room: str, most: int | None = None) -> bytes:
    """Contents of a file.

    Args:
        path: The file.
        room: What reads it, for messages.
        most: Bytes that it may have; none = what this machine's memory holds.

    Raises:
        InputError: As for ``open_file``, or it is larger.
    """
    with open_file(path, room) as file:
        size = os.fstat(file.fileno()).st_size
        if most is None:
            require_memory(size, path, room)
            most = size
        try:
            data = file.read(most + 1)
        except OSError as error:
            reason = error.strerror
            raise InputError(f"[{room}] {path}: not readable: {reason}.") from error
    if len(data) > most:
        got = max(size, len(data))
        raise InputError(f"[{room}] {path}: expected at most {most} bytes, got {got}.")
    return data


def read_text(path: Path, room: str, most: int = MOST_JSON) -> str:
    """Contents of a UTF-8 file; arguments and errors as for ``read_bytes``."""
    try:
        return read_bytes(path, room, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"[{room}] {path}: not readable: {error}.") from error


def require_memory(size: int, path: Path, room: str) -> None:
    """Refuse what this machine's memory cannot hold, before any of it is read.

    Args:
        size: Bytes that reading the file takes.
        path: The file.
        room: What reads it, for messages.

    Raises:
        InputError: It is more than the machine has.
    """
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > have:
        raise InputError(
            f"[{room}] {path}: expected at most {have} bytes, this machine's memory, "
            f"got {size}."
        )


def _require_regular(found: os.stat_result, path: Path, room: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise InputError(f"[{room}] {path}: expected a file, got {kind}.")


def _require_data(descriptor: int, size: int, path: Path, room: str) -> None:
    """Refuse a large file that is nearly all holes."""
    if size <= _LARGE:
        return
    data = _data_bytes(descriptor, size)
    if data * _HOLES < size:
        raise InputError(
            f"[{room}] {path}: expected {size} bytes of data, got {data} and holes."
        )


def _data_bytes(descriptor: int, size: int) -> int:
    """Bytes that are no holes, as the file system has them."""
    found = at = 0
    try:
        for _ in range(_MOST_PIECES):
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            found += at - start
            if at >= size:
                return found
        return size  # many pieces: written bit by bit
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data behind this place
            return found
        return size  # a file system that knows no holes
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


# JSON --------------------------------------------------------------------------------


def read_json(path: Path, room: str, most: int = MOST_JSON) -> Any:
    """A small JSON file in plain form, see the module.

    Args:
        path: The file.
        room: What reads it, for messages.
        most: Bytes that it may have.

    Raises:
        InputError: It is missing, too large, no JSON, or JSON that nobody here wrote.
    """
    return parse_json(read_text(path, room, most), path, room)


def read_object(path: Path, room: str, most: int = MOST_JSON) -> dict[str, Any]:
    """A small JSON file that holds an object; as ``read_json``."""
    found = read_json(path, room, most)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise InputError(f"[{room}] {path}: must be a JSON object, got {kind}.")
    return found


def parse_json(text: str, path: Path, room: str) -> Any:
    """JSON in plain form, see the module.

    Args:
        text: The JSON.
        path: The file that it is from.
        room: What reads it, for messages.

    Raises:
        InputError: It is no JSON, or JSON that nobody here wrote.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=finite,
            parse_constant=finite,
        )
        _require_levels(value)
    except RecursionError:
        raise InputError(
            f"[{room}] {path}: not readable JSON: over {MOST_LEVELS} levels."
        ) from None
    except ValueError as error:
        raise InputError(f"[{room}] {path}: not readable JSON: {error}.") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def finite(text: str) -> float:
    """A number as JSON has it, for ``parse_constant`` of any reader.

    Raises:
        ValueError: It is NaN or infinite, which Python's own reader takes.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _require_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        inside = [part for part in level if isinstance(part, dict | list)]
        if not inside:
            return
        level = []
        for part in inside:
            level += part.values() if isinstance(part, dict) else part
    raise RecursionError


# Types -------------------------------------------------------------------------------


def built(kind: type[T], values: Any, where: str) -> T:
    """A dataclass of values from a file, each of the type that its field declares.

    Args:
        kind: The dataclass; its fields are plain values or lists and dicts of them.
        values: What the file holds, by field.
        where: File and place, with the room in brackets, for messages.

    Raises:
        InputError: ``values`` is no object, a field is unknown or missing, or a value
            is of another type.
    """
    require_type(values, dict[str, Any], where)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields.keys()):
        raise InputError(f"{where}: unknown key {unknown[0][:60]}.")
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            raise InputError(f"{where}: {name} is missing.")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        require_type(value, hints[name], f"{where}: {name}")
    return kind(**values)


def require_type(value: Any, hint: Any, where: str) -> None:
    """Refuse a value from JSON that is not of an annotated type.

    Args:
        value: The value.
        hint: ``bool``, ``int``, ``float`` (an integer is one too), ``str``, ``None``,
            a list, dict or union of them, or ``Any``.
        where: File and place, with the room in brackets, for messages.

    Raises:
        InputError: It is of another type.
    """
    if not fits(value, hint):
        got = repr(value)
        got = got if len(got) <= 60 else got[:57] + "..."
        raise InputError(f"{where} must be {_said(hint)}, got {got}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of an annotated type; see ``require_type``."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is list:
        return isinstance(value, list) and all(fits(v, inside[0]) for v in value)
    if origin in (dict, Mapping):
        fits_inside = isinstance(value, dict) and all(
            fits(v, inside[1]) for v in value.values()
        )
        return fits_inside
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _said(hint: Any) -> str:
    """A type in words."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_said, inside))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inside))
    if origin is list:
        return "a list" if inside[0] is Any else f"a list, each {_said(inside[0])}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "an object"
    return "null" if hint in (None, type(None)) else _LEAVES.get(hint, str(hint))

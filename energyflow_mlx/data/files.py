"""Lines of text files with their numbers, and plain words where that fails."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from energyflow_mlx.errors import InputError

STANDARD_STREAM = Path("-")  # as a user types it


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Lines of a UTF-8 text file with their numbers from 1, without line ends.

    Only ``\n`` ends a line (a ``\r`` before it goes too); a byte order mark at the
    start is dropped. ``.gz`` files are unpacked on the way. The path ``-`` is standard
    input, which can be read once.

    Raises:
        InputError: The file is missing, unreadable, damaged or not UTF-8; the
            message names the line.
    """
    number = 0
    try:
        with _open_binary(path) as file:
            for number, raw in enumerate(file, start=1):
                yield number, _decode_line(raw, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, number, error) from error


def require_file(path: Path) -> Path:
    """Return ``path``, or say plainly that it is not there or not a file."""
    if not path.exists():
        raise InputError(f"[data] {path}: no such file.")
    if not path.is_file():
        raise InputError(f"[data] {path}: expected a file, got a folder.")
    return path


def require_other_file(output: Path, source: Path) -> None:
    """Refuse to write over what is read.

    Raises:
        InputError: Both are one file.
    """
    if output.resolve() == source.resolve():
        raise InputError(f"[data] output must be a new file, got the input {output}.")


def _open_binary(path: Path) -> BinaryIO:
    if path == STANDARD_STREAM:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    require_file(path)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _decode_line(raw: bytes, path: Path, number: int) -> str:
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"[data] {path}: line {number}: expected UTF-8, got byte "
            f"0x{raw[error.start]:02x} at column {error.start + 1}."
        ) from error


def _unreadable(path: Path, number: int, error: Exception) -> InputError:
    return InputError(f"[data] {path}: unreadable after line {number}: {error}.")

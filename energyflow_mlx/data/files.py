"""Lines of text files with their numbers, and plain words where that fails."""

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.disk import obstacle
from energyflow_mlx.runtime.received import MIB, open_file

STANDARD_STREAM = Path("-")  # as a user types it
_MARK = b"\xef\xbb\xbf"  # of the byte order; says UTF-8 and is no text


MOST_LINE = 16 * MIB
# What unpacks to more than this many times its size was made to fill a disk: sentences
# take a third of their size.
_MOST_UNPACKED, _UNPACKED_AT_ONCE = 200, 4 * MIB


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Lines of a UTF-8 text file with their numbers from 1, without line ends.

    Only ``\n`` ends a line (a ``\r`` before it goes too); a byte order mark at the
    start is dropped, and a file of that mark alone has no line. ``.gz`` files are
    unpacked on the way. The path ``-`` is standard input, which can be read once.

    Raises:
        InputError: The file is missing, unreadable, damaged or not UTF-8, a line has
            more than ``MOST_LINE`` bytes or a NUL, as text in UTF-16 and binary files
            do, or a packed file unpacks without end; the message names the line.
    """
    number = unpacked = 0
    try:
        with _open_binary(path) as file:
            while raw := file.readline(MOST_LINE + 1):
                number += 1
                unpacked += len(raw)
                if unpacked > _UNPACKED_AT_ONCE and isinstance(file, _Unpacked):
                    file.require_honest(unpacked)
                if len(raw) > MOST_LINE:
                    raise InputError(
                        f"[data] {path}: line {number}: expected at most {MOST_LINE} "
                        "bytes, got more."
                    )
                if number > 1 or raw != _MARK:
                    yield number, _decode_line(raw, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, number, error) from error


def require_output(output: str, suffix: str, source: str | None = None) -> Path:
    """Refuse a name under which nothing could, or should, be written.

    Called before any work, so that no hour of it is lost to a misspelt name.

    Args:
        output: What the user typed.
        suffix: What the name must end in, with the dot.
        source: What is read; the output must be another file, whatever it is called.

    Raises:
        InputError: The name is not a file's, ends in something else, is what is read,
            or lies where no file can be.
    """
    path = Path(output)
    if not output.endswith(suffix) or path.name == suffix or "\0" in output:
        raise InputError(
            f"[files] output must be a name that ends in {suffix}, got {output!r}."
        )
    if source is not None and _is_same(path, Path(source)):
        raise InputError(f"[files] output must be a new file, got the input {output}.")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise InputError(f"[files] output must be a file, got {output}, which is none.")
    _require_folder(path.absolute().parent, path)
    return path


def require_output_folder(output: str) -> Path:
    """Refuse a name under which no folder could be made or written.

    Raises:
        InputError: It is a file, or lies where no folder can be.
    """
    path = Path(output)
    if "\0" in output or (os.path.lexists(path) and not os.path.isdir(path)):
        raise InputError(f"[files] output must be a folder, got {output!r}.")
    _require_folder(path.absolute(), path)
    return path


def _is_same(output: Path, source: Path) -> bool:
    """Whether two names are of one file: through links of either kind too."""
    try:
        return os.path.samefile(output, source)
    except OSError:  # one of them is not there
        return os.path.realpath(output) == os.path.realpath(source)


def _require_folder(folder: Path, output: Path) -> None:
    """Refuse a folder that cannot be made or written."""
    if found := obstacle(folder):
        raise InputError(
            f"[files] output {output} must lie in a folder that can be written, got "
            f"{found}."
        )


def _open_binary(path: Path) -> BinaryIO:
    if path == STANDARD_STREAM:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    file = open_file(path, "data")
    if path.suffix == ".gz":
        return _Unpacked(file, path)  # type: ignore[return-value]
    return file


class _Unpacked(gzip.GzipFile):
    """A packed file that knows how much of it was taken."""

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed, self._path = packed, path

    def require_honest(self, unpacked: int) -> None:
        """Refuse to go on where far more bytes came out than went in."""
        taken = self._packed.tell()
        if unpacked > _MOST_UNPACKED * taken:
            raise InputError(
                f"[data] {self._path}: must unpack to at most {_MOST_UNPACKED} times "
                f"its size, got {unpacked} bytes of {taken}."
            )

    def close(self) -> None:
        """Close the packed file too."""
        super().close()
        self._packed.close()


def _decode_line(raw: bytes, path: Path, number: int) -> str:
    if number == 1:
        raw = raw.removeprefix(_MARK)
    if (place := raw.find(b"\0")) >= 0:
        raise InputError(
            f"[data] {path}: line {number}: expected UTF-8 text, got a NUL byte at "
            f"column {place + 1}."
        )
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"[data] {path}: line {number}: expected UTF-8, got byte "
            f"0x{raw[error.start]:02x} at column {error.start + 1}."
        ) from error


def _unreadable(path: Path, number: int, error: Exception) -> InputError:
    return InputError(f"[data] {path}: unreadable after line {number}: {error}.")

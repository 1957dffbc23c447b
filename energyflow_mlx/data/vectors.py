"""Sentence vectors on the host: ``.npy`` files, checked, scaled to length 1.

A vector to learn from is checked here wherever it comes from: files of every kind, a
teacher's model, a function, a cache. Finite, and of a length that a sentence's vector
can have: so it can be scaled to length 1, and no half format overflows on it.
"""

import io
import math
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_aside
from energyflow_mlx.runtime.disk import reserve
from energyflow_mlx.runtime.received import require_file

# Lengths outside this range mean a broken teacher or file, not a sentence.
_NORMS = (0.01, 100.0)
_BLOCK_ROWS = 8192
# What NumPy raises over a header: it is a Python literal, which it parses.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, SyntaxError, tokenize.TokenError),
    *(OverflowError, RecursionError, MemoryError, KeyError),
)
# Version 3 differs from 2 in the names of fields alone, and floats have none.
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


def open_matrix(path: Path) -> np.ndarray:
    """Memory-mapped rows of a ``.npy`` file, floats ``[N, E]``.

    Raises:
        InputError: The file is missing, foreign, truncated, empty or of another shape.
    """
    if path.suffix != ".npy":
        raise InputError(f"[vectors] {path}: expected a .npy file of floats [N, E].")
    require_file(path, "vectors")
    shape, dtype, start = _read_header(path)
    is_matrix = len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)
    if dtype.kind != "f" or not is_matrix:
        raise InputError(
            f"[vectors] {path}: expected floats [N, E], got {dtype} {list(shape)}."
        )
    # Python's numbers do not overflow, as those of the memory map would.
    needed, found = start + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if found < needed:
        raise InputError(
            f"[vectors] {path}: expected {needed} bytes for {dtype} {list(shape)}, got "
            f"{found}."
        )
    return np.lib.format.open_memmap(path, mode="r")


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type that a ``.npy`` file says it has, and where its numbers begin.

    Raises:
        InputError: There is no such header.
    """
    try:
        # Of a header that Python 2 wrote, which is read all the same.
        quiet = warnings.catch_warnings(category=UserWarning, action="ignore")
        with path.open("rb") as file, quiet:
            version = np.lib.format.read_magic(file)
            if version not in _READERS:
                raise ValueError(f"version {version[0]}.{version[1]} is not known")
            shape, _, dtype = _READERS[version](file)
            return shape, dtype, file.tell()
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"[vectors] {path}: not a readable .npy: {reason}.") from error


@contextmanager
def new_matrix(
    path: Path, shape: tuple[int, int]
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Write the rows of a ``.npy`` file in any order; it appears whole or not at all.

    The file takes its room on the disk before the first row comes.

    Args:
        path: The file.
        shape: ``[N, E]``, float32.

    Yields:
        Function that writes rows: their numbers ``[n]``, each once, and ``[n, E]``.

    Raises:
        DiskError: The system refuses to write it, or there is no room.
    """
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    start, width = header.tell(), 4 * shape[1]
    size = start + shape[0] * width
    with write_aside(path, size) as aside, aside.open("wb") as file:
        reserve(file.fileno(), size)
        file.write(header.getvalue())

        def write(numbers: np.ndarray, rows: np.ndarray) -> None:
            order = np.argsort(numbers)
            numbers, rows = numbers[order], np.asarray(rows[order], "<f4", order="C")
            ends = np.flatnonzero(np.diff(numbers, append=-1) != 1) + 1
            first = 0
            for end in ends.tolist():  # rows that follow each other go in one write
                file.seek(start + int(numbers[first]) * width)
                file.write(rows[first:end].data)
                first = end

        yield write


def finite_rows(rows: np.ndarray, path: Path, start: int = 0) -> np.ndarray:
    """Rows as float32, each number finite.

    Args:
        rows: ``[N, E]``.
        path: Where they come from.
        start: Number of the first row in its file.

    Raises:
        InputError: A number is NaN or infinite; names the row.
    """
    found = _narrow(rows)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise InputError(f"[vectors] {path} row {start + bad[0]} must be finite.")
    return found


def require_targets(rows: np.ndarray, place: Callable[[int], str]) -> None:
    """Refuse vectors that nothing can be learned from.

    Args:
        rows: ``[N, E]``, any float format; read in blocks.
        place: Says where a row comes from, for the message.

    Raises:
        InputError: A row is not finite, or its length is not in [0.01, 100].
    """
    low, high = _NORMS
    for start in range(0, len(rows), _BLOCK_ROWS):
        # In float64, where no square of a float32 overflows.
        block = _narrow(rows[start : start + _BLOCK_ROWS]).astype(np.float64)
        norms = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero(~((norms >= low) & (norms <= high)))  # NaN is in no range
        if len(bad):
            raise InputError(
                f"[vectors] {place(start + int(bad[0]))} must be finite with a norm of "
                f"{low:g} to {high:g}, got norm {norms[bad[0]]:g}."
            )


def require_taught(rows: np.ndarray, teacher: str, texts: Sequence[str]) -> None:
    """Refuse what a teacher gave for texts, as ``require_targets`` does.

    Args:
        rows: ``[N, E]``.
        teacher: Its name.
        texts: The N texts; the message quotes the one at fault.

    Raises:
        InputError: As for ``require_targets``.
    """
    require_targets(rows, lambda row: f"{teacher}: vector of {texts[row][:60]!r}")


def targets_of(path: Path) -> np.ndarray:
    """Vectors of a ``.npy`` file to learn from, floats ``[N, E]``, memory-mapped.

    Raises:
        InputError: As for ``open_matrix`` and ``require_targets``; names file and row.
    """
    rows = open_matrix(path)
    require_targets(rows, lambda row: f"{path} row {row}")
    return rows


def _narrow(rows: np.ndarray) -> np.ndarray:
    """Rows as float32; what is too large for it is infinite, and refused as such."""
    with np.errstate(over="ignore"):
        return np.asarray(rows, np.float32)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; a zero vector stays zero.

    y = x / |x|

    Args:
        rows: ``[..., E]``.

    Returns:
        ``[..., E]`` float32.
    """
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, np.float32(1))

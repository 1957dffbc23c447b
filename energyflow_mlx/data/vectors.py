"""Sentence vectors on the host: from ``.npy`` files, checked, scaled to length 1."""

import math
import tokenize
from pathlib import Path

import numpy as np

from energyflow_mlx.data.files import require_file
from energyflow_mlx.errors import InputError

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
    shape, dtype, start = _read_header(require_file(path))
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
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _READERS:
                raise ValueError(f"version {version[0]}.{version[1]} is not known")
            shape, _, dtype = _READERS[version](file)
            return shape, dtype, file.tell()
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"[vectors] {path}: not a readable .npy: {reason}.") from error


def finite_rows(rows: np.ndarray, path: Path, start: int = 0) -> np.ndarray:
    """Rows as float32, each number finite.

    Args:
        rows: ``[N, E]``.
        path: Where they come from.
        start: Number of the first row in its file.

    Raises:
        InputError: A number is NaN or infinite; names the row.
    """
    with np.errstate(over="ignore"):  # an infinity is refused by its row
        found = np.asarray(rows, np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise InputError(f"[vectors] {path} row {start + bad[0]} must be finite.")
    return found


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

"""Sentence vectors on the host: from ``.npy`` files, checked, scaled to length 1."""

import tokenize
import warnings
from pathlib import Path

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import require_file

# What numpy lets through for a header that is no dictionary of plain values.
_BAD_HEADERS = (
    *(OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError),
    *(RecursionError, tokenize.TokenError),
)


def open_matrix(path: Path) -> np.ndarray:
    """Memory-mapped rows of a ``.npy`` file, floats ``[N, E]``.

    Raises:
        InputError: The file is missing, foreign, truncated, empty or of another shape.
    """
    if path.suffix != ".npy":
        raise InputError(f"[vectors] {path}: expected a .npy file of floats [N, E].")
    require_file(path, "vectors")
    try:
        # The header alone is read; a large one, or an object's, is refused.
        with warnings.catch_warnings(category=UserWarning, action="ignore"):
            # Of a header that Python 2 wrote, which is read all the same.
            rows = np.lib.format.open_memmap(path, mode="r")
    except _BAD_HEADERS as error:
        raise InputError(f"[vectors] {path}: not a readable .npy: {error}.") from error
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or not rows.size:
        raise InputError(
            f"[vectors] {path}: expected floats [N, E], got {rows.dtype} "
            f"{list(rows.shape)}."
        )
    return rows


def finite_rows(rows: np.ndarray, path: Path, start: int = 0) -> np.ndarray:
    """Rows as float32, each number finite.

    Args:
        rows: ``[N, E]``.
        path: Where they come from.
        start: Number of the first row in its file.

    Raises:
        InputError: A number is NaN or infinite; names the row.
    """
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

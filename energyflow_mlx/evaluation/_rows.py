"""Checks of sentence vectors, shared by this room."""

import numpy as np


def checked_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` as finite float32 ``[N, E]``, or say what is wrong with them."""
    rows = np.asarray(rows, dtype=np.float32)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(
            f"[evaluation] {name} must be [N, E] with N and E at least 1, got "
            f"{list(rows.shape)}."
        )
    if not np.all(np.isfinite(rows)):
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"[evaluation] {name} must be finite, got row {bad}.")
    return rows


def checked_pair(
    first_name: str, first: np.ndarray, second_name: str, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of rows that belong together row by row."""
    first = checked_rows(first_name, first)
    second = checked_rows(second_name, second)
    if first.shape != second.shape:
        raise ValueError(
            f"[evaluation] {first_name} and {second_name} must have one shape, got "
            f"{list(first.shape)} and {list(second.shape)}."
        )
    return first, second

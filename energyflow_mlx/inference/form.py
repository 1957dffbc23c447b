"""The form in which vectors are handed out: cut, in fewer bits, as which array."""

from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from energyflow_mlx.config.checks import require_whole
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_LEVELS = 255  # steps of 8 bits

Vectors: TypeAlias = np.ndarray | mx.array | list[mx.array]


@dataclass(frozen=True)
class VectorForm:
    """How ``SentenceCodec.encode`` gives its vectors.

    Attributes:
        convert_to_numpy: A NumPy array; otherwise a list of ``mx.array``, one each.
        convert_to_tensor: One ``mx.array`` in place of either.
        truncate_dim: Keep the first so many numbers of each vector; none = all.
        precision: ``float32``; ``int8`` or ``uint8``, each number in 256 steps
            between its least and its largest in this call; ``binary`` or
            ``ubinary``, one bit a number, eight of them in an int8 or uint8.
    """

    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    truncate_dim: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.precision not in PRECISIONS:
            raise InputError(
                f"[encode] precision must be one of {', '.join(PRECISIONS)}, got "
                f"{self.precision}."
            )
        if self.truncate_dim is not None:
            require_whole(self.truncate_dim, "truncate_dim", 1, room="encode")

    def cut(self, rows: np.ndarray, *, normalize: bool) -> np.ndarray:
        """First numbers of each row, then scaled to length 1 where that is asked.

        Args:
            rows: ``[N, E]`` float32, as the network gave them.
            normalize: Whether to scale.
        """
        rows = rows[:, : self.truncate_dim]
        return unit_rows(rows) if normalize else rows

    def hand_out(self, rows: np.ndarray) -> Vectors:
        """Rows ``[N, E]`` in their precision, as the array that was asked for."""
        rows = in_precision(rows, self.precision)
        if self.convert_to_tensor:
            return mx.array(rows)
        return rows if self.convert_to_numpy else [mx.array(row) for row in rows]


def in_precision(rows: np.ndarray, precision: str) -> np.ndarray:
    """Vectors in fewer bits.

    int8, uint8:  q = floor(255 (x - low) / (high - low)), low and high the least and
    largest of that number among the rows; minus 128 for int8. A number that is the
    same in all rows gives the lowest step.
    binary, ubinary:  bits x > 0, first number in the highest bit; minus 128 for binary.

    Args:
        rows: ``[N, E]`` float32; E a multiple of 8 for the binary forms.
        precision: One of ``PRECISIONS``.

    Returns:
        ``[N, E]``, or ``[N, E / 8]`` for the binary forms.

    Raises:
        InputError: E is no multiple of 8 for a binary form.
    """
    if precision == "float32":
        return rows
    if precision in ("binary", "ubinary"):
        if rows.shape[1] % 8:
            raise InputError(
                f"[encode] precision={precision} must have vectors of a multiple of 8 "
                f"numbers, got {rows.shape[1]}."
            )
        found = np.packbits(rows > 0, axis=1)
    elif not len(rows):
        found = rows.astype(np.uint8)
    else:
        low, high = rows.min(axis=0), rows.max(axis=0)
        width = np.where(high > low, high - low, np.float32(1))
        found = np.floor((rows - low) * (_LEVELS / width)).astype(np.uint8)
    if precision in ("int8", "binary"):
        return (found.astype(np.int16) - 128).astype(np.int8)
    return found

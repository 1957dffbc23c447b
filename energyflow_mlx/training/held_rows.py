"""Sentences and vectors that a checkpoint holds beside the weights, checked.

A checkpoint may be one that someone sent: what its arrays say is no row of a table, no
length of a sentence and no finite vector until it was looked at.
"""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from energyflow_mlx.errors import InputError

_IDS, _LENGTHS = "ids", "lengths"  # ends of the names


def held_rows(
    found: Mapping[str, mx.array],
    like: Mapping[str, np.ndarray],
    *,
    count: int,
    vocab_size: int,
    where: str,
) -> dict[str, np.ndarray]:
    """Arrays of a checkpoint with a row for each sentence, on the host.

    Args:
        found: The arrays, by name. Those whose names end in ``ids`` are token ids, in
            ``lengths`` numbers of tokens, others vectors.
        like: Arrays of these names, dtypes and sizes of a row, of any number of rows.
        count: Rows that each must have.
        vocab_size: V; every id is below it.
        where: The checkpoint, for messages.

    Raises:
        InputError: They are not such arrays; names what was expected.
    """
    if found.keys() != like.keys():
        names, got = (", ".join(sorted(given)) or "none" for given in (like, found))
        raise InputError(f"[checkpoint] {where}: must hold {names}, got {got}.")
    arrays = {name: np.array(array) for name, array in found.items()}
    longest = max(a.shape[1] for name, a in like.items() if name.endswith(_IDS))
    for name, array in arrays.items():
        dtype, shape = like[name].dtype, (count, *like[name].shape[1:])
        if array.dtype != dtype or array.shape != shape:
            expected = f"{dtype} {list(shape)}, got {array.dtype} {list(array.shape)}"
        else:
            expected = _not_held(name, array, vocab_size, longest)
        if expected:
            raise InputError(f"[checkpoint] {where}: '{name}' must be {expected}.")
    return arrays


def _not_held(name: str, array: np.ndarray, vocab_size: int, longest: int) -> str:
    """What the numbers should be and are not, or an empty string."""
    if name.endswith(_IDS):
        holds = 0 <= array.min() and array.max() < vocab_size
        expected = f"ids in [0, {vocab_size})"
    elif name.endswith(_LENGTHS):
        holds = 0 < array.min() and array.max() <= longest
        expected = f"lengths in [1, {longest}]"
    else:
        holds, expected = np.isfinite(array).all(), "finite"
    return "" if holds else f"{expected}, got other numbers"

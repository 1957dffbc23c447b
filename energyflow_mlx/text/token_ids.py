"""Token ids from outside, checked before a device looks them up.

A layer cannot check them: their values are not known while a graph is built. So the
calls of a trained model do, once, and the layers trust what they get. A look-up itself
gives zeros for an id that is no row of the table.
"""

from typing import TypeAlias

import mlx.core as mx
import numpy as np

from energyflow_mlx.errors import InputError

Ids: TypeAlias = mx.array | np.ndarray


def require_ids(call: str, ids: np.ndarray, size: int, place: str = "") -> None:
    """Refuse ids that are no rows of a token table.

    Args:
        call: What the user called, for the message.
        ids: Of any shape.
        size: Tokens V of the table.
        place: Where among several they stand, for the message.

    Raises:
        InputError: They are no integers, or one is not in ``[0, V)``.
    """
    if ids.dtype.kind not in "iu":
        raise _no_integers(f"[{call}] {place}", ids.dtype)
    if ids.size and not (0 <= ids.min() and ids.max() < size):
        raise InputError(
            f"[{call}] {place}token ids must be in [0, {size}), got {ids.min()} to "
            f"{ids.max()}."
        )


def checked_tokens(
    call: str, ids: Ids, mask: Ids, size: int
) -> tuple[mx.array, mx.array]:
    """Padded ids and their mask as MLX arrays; reads the ids, so no graph may do this.

    Args:
        call: What the user called, for the message.
        ids: ``[B, L]``.
        mask: 1 for real tokens, ``[B, L]``.
        size: Tokens V of the table.

    Raises:
        InputError: Shapes do not fit, ids are no integers, or one is not in ``[0, V)``.
    """
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise InputError(
            f"[{call}] token ids must be [B, L] with L at least 1, got "
            f"{list(ids.shape)}."
        )
    if tuple(mask.shape) != tuple(ids.shape):
        raise InputError(
            f"[{call}] mask must be [B, L] = {list(ids.shape)}, got {list(mask.shape)}."
        )
    if isinstance(ids, mx.array) and not mx.issubdtype(ids.dtype, mx.integer):
        raise _no_integers(
            f"[{call}] ", ids.dtype
        )  # NumPy may not even know the format
    require_ids(call, np.asarray(ids), size)
    return mx.array(ids), mx.array(mask)


def _no_integers(place: str, dtype: object) -> InputError:
    return InputError(f"{place}token ids must be integers, got {dtype}.")

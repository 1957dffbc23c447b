"""The activation of a layer, by the name that the configuration gives it."""

from collections.abc import Callable
from functools import partial
from typing import cast, get_args

import mlx.core as mx

from energyflow_mlx.ops import gelu
from energyflow_mlx.ops.gelu import Form


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the GELU form called ``name``: ``"exact"`` or ``"tanh"``.

    Raises:
        ValueError: ``name`` is neither.
    """
    if name not in get_args(Form):
        raise ValueError(
            f"[activation] name must be one of {list(get_args(Form))}, got {name!r}."
        )
    return partial(gelu, form=cast(Form, name))

"""The activation of a layer, by the name that the configuration gives it."""

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from energyflow_mlx.ops import gelu
from energyflow_mlx.ops.gelu import Form

_FORMS: dict[str, Form] = {"exact": "exact", "tanh": "tanh"}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """Return the GELU form called ``name``: ``"exact"`` or ``"tanh"``.

    Raises:
        ValueError: ``name`` is neither.
    """
    if name not in _FORMS:
        raise ValueError(
            f"[activation] name must be one of {sorted(_FORMS)}, got {name!r}."
        )
    return partial(gelu, form=_FORMS[name])

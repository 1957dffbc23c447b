"""Fills of an array with one value in the graph of a training update, with their sizes.

MLX draws a graph without shapes. So while it is built, what our code asks ``mx.zeros``
and its kin for is given as a computed array with a name, and the drawing says which of
them the graph uses. A ``Full`` that is still drawn was made by MLX itself, in a
gradient. The graph is the one before ``mx.compile`` fuses it: a fill that fusing
removes is counted too, so none here means none at all.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

_FILLING = ("zeros", "ones", "full", "zeros_like", "ones_like")
Shape = tuple[int, ...]


def fills_of(build: Callable[[], list[mx.array]]) -> tuple[Counter[Shape], int]:
    """Fills in the graph of what a function builds.

    Args:
        build: Builds lazy arrays, from inputs that are computed; it is called once.

    Returns:
        How many fills of each shape our code asks for, and how many MLX makes itself,
        of unknown size.
    """
    drawn = io.StringIO()
    mx.disable_compile()  # a fused expression hides what is inside it
    try:
        with _named_fills() as asked:
            outputs = build()
    finally:
        mx.enable_compile()
    mx.export_to_dot(drawn, *outputs, **asked)
    text = drawn.getvalue()
    used = [a for name, a in asked.items() if f'"{name}" -> ' in text]
    return Counter(tuple(a.shape) for a in used), len(re.findall('label ="Full"', text))


def large(fills: Counter[Shape], size: int) -> int:
    """How many fills have at least so many numbers."""
    return sum(n for shape, n in fills.items() if math.prod(shape) >= size)


@contextmanager
def _named_fills() -> Iterator[dict[str, mx.array]]:
    """Give what the code asks to be filled as a constant, and keep it by a name."""
    asked: dict[str, mx.array] = {}
    originals = {name: getattr(mx, name) for name in _FILLING}

    def recording(fill: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def wrapper(*args: Any, **kwargs: Any) -> mx.array:
            filled = fill(*args, **kwargs)
            # Through NumPy: while gradients are traced, MLX keeps even computed graphs.
            leaf = mx.array(np.array(filled.astype(mx.float32)))
            asked[f"fill{len(asked)}"] = leaf
            return leaf.astype(filled.dtype)

        return wrapper

    for name, fill in originals.items():
        setattr(mx, name, recording(fill))
    try:
        yield asked
    finally:
        for name, fill in originals.items():
            setattr(mx, name, fill)

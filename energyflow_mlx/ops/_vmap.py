"""The ``mx.vmap`` rule of operations whose arrays all lead with the batch axis.

Without a rule of its own, MLX maps the body of a custom function and forgets its
gradient, so that ``grad(vmap(f))`` is silently wrong. The rule here calls the operation
again, gradient and all, with the mapped axis folded into the batch axis. It serves the
plain forms: a kernel inside ``mx.vmap`` raises, since MLX maps the body as well and its
kernels have no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx


def fold_mapped_axis(op: Any) -> Callable[..., Any]:
    """Give a custom function the rule: fold the mapped axis into the batch axis.

    Args:
        op: An ``mx.custom_function`` over arrays that all lead with the batch axis
            and whose results do too.

    Returns:
        The same function.
    """

    @op.vmap
    def rule(inputs: Any, axes: Any) -> tuple[Any, Any]:
        alone = not isinstance(inputs, list | tuple)
        arrays, mapped = ([inputs], [axes]) if alone else (inputs, axes)
        size = _mapped_size(arrays, mapped)
        outputs = op(*(_fold(a, i, size) for a, i in zip(arrays, mapped, strict=True)))
        if isinstance(outputs, list | tuple):
            return type(outputs)(_unfold(y, size) for y in outputs), [0] * len(outputs)
        return _unfold(outputs, size), 0

    return op


def _mapped_size(arrays: Sequence[mx.array], axes: Sequence[int | None]) -> int:
    sizes = (
        a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None
    )
    return next(sizes)


def _fold(array: mx.array, axis: int | None, size: int) -> mx.array:
    """``[B, ...]`` and a mapped axis as ``[size * B, ...]``."""
    if axis is None:
        array = mx.broadcast_to(array[None], (size, *array.shape))
    else:
        array = mx.moveaxis(array, axis, 0)
    return array.reshape(-1, *array.shape[2:])


def _unfold(array: mx.array, size: int) -> mx.array:
    return array.reshape(size, -1, *array.shape[1:])

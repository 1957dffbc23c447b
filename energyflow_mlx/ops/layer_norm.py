"""Layer norm, of tokens to which a vector of their sentence may be added first.

    v = x + added,  y = (v - mean(v)) / sqrt(var(v) + eps) * weight + bias

Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3. On the CPU the gradient of
MLX's form takes a pass over memory for each of its operations, on one thread; the
native form takes one. On a GPU MLX's own kernels run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, resolve
from energyflow_mlx.runtime import native


def layer_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    eps: float,
    added: mx.array | None = None,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Normalise the last axis; mean and variance are float32, in two passes.

    Args:
        x: ``[..., D]``; with ``added`` it is ``[B, L, D]``.
        weight: ``[D]``.
        bias: ``[D]``.
        eps: Added to the variance.
        added: ``[B, D]``, added to every token of its sentence before the norm.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Shape and dtype of ``x``.

    Raises:
        ValueError: ``added`` is given and does not fit ``x``.
    """
    if added is not None and (x.ndim != 3 or added.shape != (x.shape[0], x.shape[2])):
        raise ValueError(
            "[layer_norm] added must be [B, D] of x [B, L, D], "
            f"got {list(added.shape)} and {list(x.shape)}."
        )
    chosen = resolve(backend, "layer_norm")
    if chosen == "reference" or x.size == 0:
        return layer_norm_reference(x, weight, bias, eps, added)
    arrays = [x, weight, bias] + ([] if added is None else [added])
    return _norm(eps)(*(a.astype(mx.float32) for a in arrays)).astype(x.dtype)


def layer_norm_reference(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    eps: float,
    added: mx.array | None = None,
) -> mx.array:
    """MLX's form of ``layer_norm``; the specification of the native one."""
    v = x if added is None else x + added[:, None, :]
    return mx.fast.layer_norm(v, weight, bias, eps)


@cache
def _norm(eps: float) -> Callable[..., mx.array]:
    """``(x, weight, bias[, added]) -> y``, with its gradient."""

    @mx.custom_function
    def norm(*arrays: mx.array) -> mx.array:
        outputs = [(arrays[0].shape, mx.float32)]
        return native.launch(
            "layer_norm_forward", arrays, outputs, _sizes(arrays), [eps]
        )[0]

    @norm.vjp
    def norm_vjp(
        primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
    ) -> list[mx.array]:
        return native.launch(
            "layer_norm_backward",
            [*primals, cotangent],
            [(a.shape, mx.float32) for a in primals],
            _sizes(primals),
            [eps],
        )

    return norm


def _sizes(arrays: tuple[mx.array, ...]) -> list[int]:
    """Groups, rows of a group, width, and whether a vector is added to each group."""
    x, width = arrays[0], arrays[1].shape[0]
    if len(arrays) == 4:
        return [x.shape[0], x.shape[1], width, 1]
    return [x.size // width, 1, width, 0]

"""Cross entropy of a linear layer over a vocabulary, in chunks of rows.

    x[n] = W h[n] + b - lowered
    L = sum_n count[n] (logsumexp_v x[n] - (1 - s) x[n, target[n]] - s mean_v x[n])

The logits ``[N, V]`` are the largest arrays of a training step, and their gradient is
as large. Here neither is held whole: rows come in chunks, whose logits stay in the
format of ``h``, and each chunk is turned at once into its share of the gradients,

    gx[n] = count[n] (softmax(x[n]) - (1 - s) onehot(target[n]) - s / V)
    gh = gx W,  gW = gx^T h,  gb = sum_n gx[n],

which are kept until the cotangent of the sum, a scalar, is there to scale them. To
compute the logits again in the backward pass would keep ``[N, D] + [V, D]`` numbers
less and cost a fourth product over the vocabulary beside the three there are: a third
more of the dearest work of a step. Who wants the value alone says so. Chunks, and
gradients of W in float32 over them, follow Hsu et al., "Liger Kernel", 2024, section
3.2. On a CPU one C kernel does all of it, on the rows that count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.ops._backend import (
    FLOAT_DTYPES,
    Backend,
    KernelSpec,
    Threads,
    features_per_lane,
    launch,
    resolve,
)
from energyflow_mlx.ops.row_sums import row_sum
from energyflow_mlx.runtime import native

FORWARD = KernelSpec(
    "linear_cross_entropy",
    "forward",
    inputs=("logits", "offset", "target", "count", "smoothing"),
    outputs=("loss", "lse"),
)
BACKWARD = KernelSpec(
    "linear_cross_entropy",
    "backward",
    inputs=("logits", "offset", "target", "count", "smoothing", "lse"),
    outputs=("grad",),
)

_GROUP = 256  # threads a row forward, threads a group backward
_CHUNK_BYTES = 2**28  # of one chunk's logits
_ALIGNMENT = 64  # columns are filled up to it, for wide access and products


class _Rows(NamedTuple):
    """What the loss of some rows takes beside their logits."""

    offset: mx.array  # [V] float32: bias - lowered
    target: mx.array  # [N] int32
    count: mx.array  # [N] float32
    smoothing: mx.array  # [1] float32


# Of logits [N, P] and rows: the losses [N] and a gradient [N, P], P >= V.
_Loss = Callable[[mx.array, _Rows], tuple[mx.array, mx.array]]


def linear_cross_entropy(
    h: mx.array,
    weight: mx.array,
    bias: mx.array,
    target: mx.array,
    count: mx.array,
    *,
    lowered: mx.array | None = None,
    label_smoothing: float = 0.0,
    value_only: bool = False,
    backend: Backend = "auto",
) -> mx.array:
    """Sum of the cross entropy over rows.

    Args:
        h: Features, ``[N, D]``; float32, float16 or bfloat16: the format of the
            products.
        weight: ``[V, D]``; read in the format of ``h``, its gradient is its own.
        bias: ``[V]``.
        target: Class of each row, ``[N]``, integers in ``[0, V)``; not checked, since
            that would need their values.
        count: Weight of each row, ``[N]``; a row of weight 0 may hold anything.
        lowered: Subtracted from every row's logits, ``[V]``; no gradient.
        label_smoothing: Share ``s`` of the target spread evenly, in ``[0, 1)``.
        value_only: No gradient will be asked for, so none is computed.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Sum in nats, scalar float32. The gradient has no gradient of its own.

    Raises:
        ValueError: Shapes differ, or the smoothing is outside ``[0, 1)``.
        TypeError: ``target`` are not integers, or ``h`` is of no format above.
    """
    _check(h, weight, bias, target, count, label_smoothing)
    chosen = resolve(backend, "linear_cross_entropy")
    if chosen == "reference" or h.size == 0:
        return linear_cross_entropy_reference(
            h, weight, bias, target, count, lowered, label_smoothing
        )
    if lowered is None:
        lowered = mx.zeros(bias.shape)
    fixed = (target.astype(mx.int32), count.astype(mx.float32), lowered)
    arrays = (h, weight, bias, *(mx.stop_gradient(a) for a in fixed))
    if value_only:
        return _sum_and_gradients(chosen, label_smoothing, arrays, value_only=True)[0]
    return _summed(chosen, label_smoothing)(*arrays)[0]


def linear_cross_entropy_reference(
    h: mx.array,
    weight: mx.array,
    bias: mx.array,
    target: mx.array,
    count: mx.array,
    lowered: mx.array | None = None,
    label_smoothing: float = 0.0,
) -> mx.array:
    """Plain MLX form of ``linear_cross_entropy``; the specification of the others."""
    # A row that does not count may hold anything: it reaches neither sum nor gradient.
    h = mx.where(count[:, None] != 0, h, 0)
    x = (h @ weight.astype(h.dtype).T).astype(mx.float32) + bias.astype(mx.float32)
    if lowered is not None:
        x = x - lowered
    chosen = mx.take_along_axis(x, target[:, None], axis=-1)[:, 0]
    s = label_smoothing
    loss = mx.logsumexp(x, axis=-1) - (1 - s) * chosen - s * mx.mean(x, axis=-1)
    return mx.sum(loss * count.astype(mx.float32))


@cache
def _summed(backend: str, smoothing: float) -> Callable[..., tuple[mx.array, ...]]:
    """``(h, weight, bias, ...) -> (sum, gh, gweight, gbias)``, with the gradient."""

    @mx.custom_function
    def summed(*arrays: mx.array) -> tuple[mx.array, ...]:
        return _sum_and_gradients(backend, smoothing, arrays)

    @summed.vjp
    def summed_vjp(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, ...],
        outputs: tuple[mx.array, ...],
    ) -> tuple[mx.array, ...]:
        scaled = [
            (cotangents[0] * gradient).astype(primal.dtype)
            for primal, gradient in zip(primals[:3], outputs[1:], strict=True)
        ]
        return (*scaled, *(mx.zeros_like(a) for a in primals[3:]))

    return summed


def _sum_and_gradients(
    backend: str,
    smoothing: float,
    arrays: Sequence[mx.array],
    *,
    value_only: bool = False,
) -> tuple[mx.array, ...]:
    """Sum and gradients for h, weight and bias.

    Args:
        backend: Which kernels run.
        smoothing: Label smoothing.
        arrays: h, weight, bias, target, count, lowered.
        value_only: No gradient is wanted.
    """
    h, weight, bias, target, count, lowered = arrays
    offset = bias.astype(mx.float32) - lowered
    if backend == "cpu":
        wide = (h.astype(mx.float32), weight.astype(mx.float32), offset)
        return _on_cpu(*wide, target, count, smoothing, value_only=value_only)
    # Lazy: gradients that nobody asks for cost nothing.
    rows = _Rows(offset, target, count, mx.array([smoothing], mx.float32))
    return _in_chunks(h, weight, rows, _kernels(backend))


def _in_chunks(
    h: mx.array, weight: mx.array, rows: _Rows, form: _Loss
) -> tuple[mx.array, ...]:
    """Sum and gradients, a chunk of rows at a time."""
    vocabulary = weight.shape[0]
    matrix = weight.astype(h.dtype)
    extra = -vocabulary % _ALIGNMENT
    if extra:
        matrix = mx.pad(matrix, [(0, extra), (0, 0)])
    most = max(1, _CHUNK_BYTES // (matrix.shape[0] * h.dtype.size))
    total = mx.zeros(())
    gweight, gbias = mx.zeros(()), mx.zeros(())
    parts = []
    for start in range(0, h.shape[0], most):
        part = slice(start, start + most)
        chunk = rows._replace(target=rows.target[part], count=rows.count[part])
        losses, gx = form(h[part] @ matrix.T, chunk)
        # Rows that do not count may hold NaN: zero times it must not reach the sums.
        features = mx.where(chunk.count[:, None] != 0, h[part], 0)
        total = total + mx.sum(losses)
        parts.append(gx @ matrix)
        gweight = gweight + (gx.T @ features).astype(mx.float32)
        gbias = gbias + row_sum(gx).astype(mx.float32)
    gh = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return total, gh, gweight[:vocabulary], gbias[:vocabulary]


# -- CPU ------------------------------------------------------------------------------


def _on_cpu(
    h: mx.array,
    weight: mx.array,
    offset: mx.array,
    target: mx.array,
    count: mx.array,
    smoothing: float,
    *,
    value_only: bool,
) -> tuple[mx.array, ...]:
    """Sum and, unless they are not wanted, gradients; all float32."""
    outputs: list[tuple[tuple[int, ...], mx.Dtype]] = [((), mx.float32)]
    if not value_only:
        outputs += [(a.shape, mx.float32) for a in (h, weight, offset)]
    sizes = [h.shape[0], *weight.shape, not value_only]
    inputs = [h, weight, offset, target, count]
    return tuple(
        native.launch("linear_cross_entropy", inputs, outputs, sizes, [smoothing])
    )


# -- GPU ------------------------------------------------------------------------------


@cache
def _kernels(backend: str) -> _Loss:
    """Losses and their gradient on a kernel each."""

    def loss(logits: mx.array, rows: _Rows) -> tuple[mx.array, mx.array]:
        count, columns = logits.shape
        lane = features_per_lane(logits.dtype, backend)
        template = [("T", logits.dtype), ("VALID", rows.offset.size), ("V", lane)]
        grouped = Threads(count * _GROUP, _GROUP, [*template, ("GROUP", _GROUP)])
        outputs = [((count,), mx.float32)] * 2
        losses, lse = launch(FORWARD, [logits, *rows], outputs, grouped, backend)
        total = count * columns // lane  # columns are filled up to a multiple
        single = Threads(total, min(_GROUP, total), template)
        outputs = [(logits.shape, logits.dtype)]
        (gx,) = launch(BACKWARD, [logits, *rows, lse], outputs, single, backend)
        return losses, gx

    return loss


def _check(
    h: mx.array,
    weight: mx.array,
    bias: mx.array,
    target: mx.array,
    count: mx.array,
    smoothing: float,
) -> None:
    if h.ndim != 2 or weight.ndim != 2 or weight.shape[1] != h.shape[1]:
        raise ValueError(
            "[linear_cross_entropy] h and weight must be [N, D] and [V, D], "
            f"got {list(h.shape)} and {list(weight.shape)}."
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"[linear_cross_entropy] bias must be [V] = [{weight.shape[0]}], "
            f"got {list(bias.shape)}."
        )
    if target.shape != h.shape[:1] or count.shape != h.shape[:1]:
        raise ValueError(
            f"[linear_cross_entropy] target and count must be [N] = [{h.shape[0]}], "
            f"got {list(target.shape)} and {list(count.shape)}."
        )
    if not mx.issubdtype(target.dtype, mx.integer):
        raise TypeError(
            f"[linear_cross_entropy] target must be integers, got {target.dtype}."
        )
    if h.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"[linear_cross_entropy] h must be a float array, got {h.dtype}."
        )
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(
            "[linear_cross_entropy] label_smoothing must be in [0, 1), "
            f"got {smoothing}."
        )

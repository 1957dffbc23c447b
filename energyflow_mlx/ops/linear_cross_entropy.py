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
3.2.
"""

from __future__ import annotations

from collections.abc import Callable
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
from energyflow_mlx.ops.fast_math import fast_exp
from energyflow_mlx.ops.row_sums import row_sum

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
_ALIGNMENT = 64  # columns are filled up to it on a GPU, for wide access and products


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
    smoothing = mx.array([label_smoothing], mx.float32)
    arrays = [mx.stop_gradient(a) for a in (*fixed, smoothing)]
    if value_only:
        return _sum_and_gradients(chosen, h, weight, bias, *arrays)[0]
    return _summed(chosen)(h, weight, bias, *arrays)[0]


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
def _summed(backend: str) -> Callable[..., tuple[mx.array, ...]]:
    """``(h, weight, bias, ...) -> (sum, gh, gweight, gbias)``, with the gradient."""

    @mx.custom_function
    def summed(*arrays: mx.array) -> tuple[mx.array, ...]:
        return _sum_and_gradients(backend, *arrays)

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
    h: mx.array,
    weight: mx.array,
    bias: mx.array,
    target: mx.array,
    count: mx.array,
    lowered: mx.array,
    smoothing: mx.array,
) -> tuple[mx.array, ...]:
    """Sum and gradients for h, weight and bias; what is not asked for costs nothing."""
    is_cpu = backend == "cpu"
    form: _Loss = linear_cross_entropy_cpu if is_cpu else _kernels(backend)
    rows = _Rows(bias.astype(mx.float32) - lowered, target, count, smoothing)
    return _in_chunks(h, weight, rows, form, is_padded=not is_cpu)


def _in_chunks(
    h: mx.array, weight: mx.array, rows: _Rows, form: _Loss, *, is_padded: bool
) -> tuple[mx.array, ...]:
    """Sum and gradients, a chunk of rows at a time."""
    vocabulary = weight.shape[0]
    matrix = weight.astype(h.dtype)
    extra = -vocabulary % _ALIGNMENT if is_padded else 0
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


@mx.compile
def _exponentials(
    logits: mx.array, offset: mx.array, count: mx.array
) -> tuple[mx.array, mx.array]:
    """Return ``exp(x - row maximum)`` in float32, ``[N, V]``, and the maximum."""
    x = mx.where(count[:, None] != 0, logits.astype(mx.float32) + offset, 0.0)
    peak = mx.max(x, axis=-1, keepdims=True)
    return fast_exp(x - peak), peak


@mx.compile
def _slopes(
    exponentials: mx.array,
    scale: mx.array,
    weight: mx.array,
    target: mx.array,
    spread: mx.array,
) -> mx.array:
    """``scale * exponentials - weight * onehot(target) - spread`` in one fused pass."""
    column = mx.arange(exponentials.shape[-1], dtype=target.dtype)
    hit = column[None, :] == target[:, None]
    return exponentials * scale - mx.where(hit, weight, 0.0) - spread


def linear_cross_entropy_cpu(
    logits: mx.array, rows: _Rows
) -> tuple[mx.array, mx.array]:
    """Losses ``[N]`` of a chunk's products ``[N, V]``, and their gradient.

    The exponentials, one a logit, serve both.
    """
    exponentials, peak = _exponentials(logits, rows.offset, rows.count)
    total = mx.sum(exponentials, axis=-1, keepdims=True)
    count, s = rows.count[:, None], rows.smoothing
    target = rows.target[:, None]
    wide = mx.take_along_axis(logits, target, axis=-1).astype(mx.float32)
    chosen = wide + rows.offset[target]
    mean = mx.mean(logits, axis=-1, keepdims=True).astype(mx.float32)
    mean = mean + mx.mean(rows.offset)
    losses = mx.log(total) + peak - (1 - s) * chosen - s * mean
    # A row that does not count may hold anything.
    losses = mx.where(count != 0, count * losses, 0.0)
    spread = count * s / logits.shape[-1]
    slopes = _slopes(exponentials, count / total, count * (1 - s), rows.target, spread)
    return losses[:, 0], slopes.astype(logits.dtype)


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
        total = count * -(-columns // lane)
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

"""Losses: cross entropy over a vocabulary, cosine similarity, mean squared error.

Cross entropy is the dearest operation of reconstruction training: its logits are
``tokens x vocabulary``. It therefore has a gradient formula of its own that reuses the
exponentials of the forward pass, one per logit in all.
"""

import mlx.core as mx

from energyflow_mlx.ops import fast_exp


@mx.compile
def _shifted_exponentials(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return ``exp(logits - row maximum)`` in float32, ``[N, V]``, and the maximum."""
    wide = logits.astype(mx.float32)
    peak = mx.max(wide, axis=-1, keepdims=True)
    return fast_exp(wide - peak), peak


@mx.compile
def _softmax_minus_target(
    exponentials: mx.array, scale: mx.array, weight: mx.array, targets: mx.array
) -> mx.array:
    """``scale * exponentials - weight * onehot(targets)`` in one fused pass."""
    column = mx.arange(exponentials.shape[-1], dtype=targets.dtype)
    hit = column[None, :] == targets[:, None]
    return exponentials * scale - mx.where(hit, weight, 0.0)


def _cross_entropy_with_residuals(
    logits: mx.array, targets: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    exponentials, peak = _shifted_exponentials(logits)
    total = mx.sum(exponentials, axis=-1)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)
    loss = mx.log(total) + (peak - chosen.astype(mx.float32))[:, 0]
    return loss, exponentials, total


_plain_cross_entropy = mx.custom_function(_cross_entropy_with_residuals)


@_plain_cross_entropy.vjp
def _plain_cross_entropy_vjp(
    primals: tuple[mx.array, mx.array],
    cotangents: tuple[mx.array, mx.array, mx.array],
    outputs: tuple[mx.array, mx.array, mx.array],
) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    _, exponentials, total = outputs
    weight = cotangents[0][:, None]
    gradient = _softmax_minus_target(
        exponentials, weight / total[:, None], weight, targets
    )
    return gradient.astype(logits.dtype), mx.zeros_like(targets)


def _check_logits(logits: mx.array, targets: mx.array) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            "[cross_entropy] logits and targets must be [N, V] and [N], "
            f"got {list(logits.shape)} and {list(targets.shape)}."
        )
    if not mx.issubdtype(targets.dtype, mx.integer):
        raise TypeError(
            f"[cross_entropy] targets must be integers, got {targets.dtype}."
        )


def cross_entropy(
    logits: mx.array, targets: mx.array, *, label_smoothing: float = 0.0
) -> mx.array:
    """Cross entropy of each row, ``logsumexp(logits) - logits[target]``.

    With smoothing ``s`` the target distribution is ``(1 - s) onehot + s / V``.
    Sums are accumulated in float32, and the row maximum is subtracted first.

    Args:
        logits: Unnormalised log probabilities, ``[N, V]``; float32, float16, bfloat16.
        targets: Class of each row, ``[N]``, integers in ``[0, V)``; not checked, since
            that would need their values.
        label_smoothing: Share of the target spread evenly, in ``[0, 1)``.

    Returns:
        Loss of each row in nats, ``[N]`` float32.

    Raises:
        ValueError: Shapes differ, or the smoothing is outside ``[0, 1)``.
        TypeError: ``targets`` are not integers.
    """
    _check_logits(logits, targets)
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(
            f"[cross_entropy] label_smoothing must be in [0, 1), got {label_smoothing}."
        )
    loss = _plain_cross_entropy(logits, targets)[0]
    if label_smoothing == 0.0:
        return loss
    # The smoothed loss differs from the plain one by s (logits[target] - mean logits).
    wide = logits.astype(mx.float32)
    chosen = mx.take_along_axis(wide, targets[:, None], axis=-1)[:, 0]
    return loss + label_smoothing * (chosen - mx.mean(wide, axis=-1))


def sequence_cross_entropy(
    logits: mx.array,
    targets: mx.array,
    mask: mx.array,
    *,
    label_smoothing: float = 0.0,
) -> tuple[mx.array, mx.array]:
    """Sum of the cross entropy over the real targets, and how many there are.

    Divide the one by the other for the mean over real targets; add up both first when
    several micro-batches make one step.

    Args:
        logits: ``[B, L, V]``.
        targets: Token to be predicted at each position, ``[B, L]``, integers.
        mask: 1 where the target is a real token, ``[B, L]``.
        label_smoothing: As in :func:`cross_entropy`.

    Returns:
        Sum in nats and count, both float32 scalars.

    Raises:
        ValueError: Shapes differ.
    """
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        raise ValueError(
            "[sequence_cross_entropy] logits and targets must be [B, L, V] and "
            f"[B, L], got {list(logits.shape)} and {list(targets.shape)}."
        )
    if mask.shape != targets.shape:
        raise ValueError(
            f"[sequence_cross_entropy] mask must be [B, L] = {list(targets.shape)}, "
            f"got {list(mask.shape)}."
        )
    losses = cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        targets.reshape(-1),
        label_smoothing=label_smoothing,
    )
    weights = mask.reshape(-1).astype(mx.float32)
    # A padded row may hold anything, even NaN: it must not reach the sum.
    return mx.sum(mx.where(weights > 0, losses * weights, 0.0)), mx.sum(weights)


def _check_same_shape(name: str, a: mx.array, b: mx.array) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"[{name}] both arrays must have one shape, "
            f"got {list(a.shape)} and {list(b.shape)}."
        )


def cosine(a: mx.array, b: mx.array) -> mx.array:
    """Cosine similarity of matching rows; a zero row has similarity 0.

    cos[b] = a[b].b[b] / (max(|a[b]|, 1e-6) max(|b[b]|, 1e-6))

    Args:
        a: ``[B, E]``; float32, float16 or bfloat16.
        b: ``[B, E]``.

    Returns:
        ``[B]`` float32.

    Raises:
        ValueError: The shapes differ.
    """
    _check_same_shape("cosine", a, b)
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    # The floor sits inside the root, where the gradient at zero stays finite.
    squares = mx.maximum(mx.sum(a * a, axis=-1), 1e-12) * mx.maximum(
        mx.sum(b * b, axis=-1), 1e-12
    )
    return mx.sum(a * b, axis=-1) / mx.sqrt(squares)


def mse(a: mx.array, b: mx.array) -> mx.array:
    """Mean squared difference over all elements, float32 scalar.

    Raises:
        ValueError: The shapes differ.
    """
    _check_same_shape("mse", a, b)
    return mx.mean(mx.square(a.astype(mx.float32) - b.astype(mx.float32)))


def unit_rows(x: mx.array) -> mx.array:
    """Rows at length 1, ``[..., E]``; the floor keeps a zero row's gradient finite."""
    return x * mx.rsqrt(mx.maximum(mx.sum(x * x, axis=-1, keepdims=True), 1e-12))

"""Distances of vectors: cosine, mean squared error, and of their similarities.

Cross entropy over a vocabulary is an operation: ``ops.linear_cross_entropy``.
"""

import mlx.core as mx


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


def similarity_mse(y: mx.array, target: mx.array, real: mx.array) -> mx.array:
    """Squared difference of the cosines that each row has with the others.

    s[b] = mean over real c != b of (cos(y[b], y[c]) - cos(target[b], target[c]))^2

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    equation 4, with cosines in place of row-normalized products.

    Args:
        y: ``[B, D]`` float32.
        target: ``[B, E]`` float32; E may differ from D.
        real: 1 where the row counts, 0 where it is padding, ``[B]``.

    Returns:
        ``[B]`` float32; 0 for a row that does not count or has no other.
    """
    others = _others(real)  # [B, B]
    squares = mx.square(_cosines(y) - _cosines(target)) * others
    return mx.sum(squares, axis=-1) / mx.maximum(mx.sum(others, axis=-1), 1.0)


def similarity_kl(
    y: mx.array, target: mx.array, real: mx.array, temperature: float
) -> mx.array:
    """Divergence of whom each row resembles from whom its target does.

    s[b] = KL(p_b || q_b), p_b the softmax of cos(target[b], target[c]) / temperature
    over real c != b, q_b the same of y.

    Source: Fang et al., "SEED: Self-supervised Distillation for Visual
    Representation", ICLR 2021, section 3.2, over the batch in place of a queue.

    Args:
        y: ``[B, D]`` float32.
        target: ``[B, E]`` float32; E may differ from D.
        real: 1 where the row counts, 0 where it is padding, ``[B]``.
        temperature: Divides the cosines.

    Returns:
        ``[B]`` float32; 0 for a row that does not count or has no other.
    """
    others = _others(real)  # [B, B]
    # Finite: a row without others stays the same on both sides, and its gradient 0.
    barred = (1.0 - others) * -1e9
    q = _cosines(y) / temperature + barred
    p = _cosines(target) / temperature + barred
    log_q = q - mx.logsumexp(q, axis=-1, keepdims=True)
    log_p = p - mx.logsumexp(p, axis=-1, keepdims=True)
    return mx.sum(mx.exp(log_p) * others * (log_p - log_q), axis=-1)


def _cosines(x: mx.array) -> mx.array:
    """Cosines of all rows with all, ``[B, D]`` to ``[B, B]``."""
    unit = unit_rows(x)
    return unit @ unit.T


def _others(real: mx.array) -> mx.array:
    """1 where both rows count and differ, ``[B]`` to ``[B, B]`` float32."""
    real = real.astype(mx.float32)
    return real[:, None] * real[None, :] * (1.0 - mx.eye(real.size))

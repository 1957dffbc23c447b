"""Distances of vectors: cosine similarity and mean squared error.

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

"""Soft tokens: what a table has, on average, for a token that is still to be drawn."""

import mlx.core as mx

# Logits of so many bytes are held at once; with more rows none are kept for the
# gradient, which computes them again.
_CHUNK_BYTES = 2**28


def expected_rows(
    h: mx.array, weight: mx.array, offset: mx.array, table: mx.array
) -> mx.array:
    """Mean row of a table under the softmax of a linear layer.

        p[t] = softmax(W h[t] + offset)        rows[t] = sum_v p[t, v] table[v]

    It is the row of a token drawn from p, on average, so it is differentiable where a
    drawn token is not. Where the columns are a sample of a vocabulary and ``offset``
    has the logarithm of their chance to be in it subtracted, it estimates the row under
    the whole softmax (self-normalized importance sampling).

    Args:
        h: Features, ``[T, D]``; float32, float16 or bfloat16: the format of the
            products.
        weight: ``[V, D]``; read in the format of ``h``.
        offset: Added to the logits, ``[V]`` float32.
        table: ``[V, R]``.

    Returns:
        ``[T, R]`` in ``table.dtype``; the softmax is float32.
    """
    most = max(1, _CHUNK_BYTES // (4 * weight.shape[0]))
    chunks = [h[start : start + most] for start in range(0, h.shape[0], most)]
    if len(chunks) == 1:
        return _expected(h, weight, offset, table)
    again = mx.checkpoint(_expected)
    return mx.concatenate([again(chunk, weight, offset, table) for chunk in chunks])


def _expected(
    h: mx.array, weight: mx.array, offset: mx.array, table: mx.array
) -> mx.array:
    """``expected_rows`` of one chunk."""
    logits = (h @ weight.astype(h.dtype).T).astype(mx.float32) + offset  # [T, V]
    return mx.softmax(logits, axis=-1).astype(table.dtype) @ table

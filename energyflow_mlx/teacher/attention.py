"""Attention of the teachers, and the scores that keep it from padding."""

from __future__ import annotations

import math

import mlx.core as mx

from energyflow_mlx.nn.attention import has_fused_attention
from energyflow_mlx.ops import fast_exp

# Added to the score of a key that must not be seen: its weight is then 0 in float32.
HIDDEN_SCORE = -1e9


@mx.compile
def _exp_below(scores: mx.array, peak: mx.array) -> mx.array:
    return fast_exp(scores - peak)


def split_heads(qkv: mx.array, heads: int) -> mx.array:
    """Queries, keys and values of every head, ``[B, L, 3D]`` to ``[3, B, N, L, W]``.

    Args:
        qkv: Queries, then keys, then values along the last axis.
        heads: Number of heads N; each has width ``W = D / N``.
    """
    batch, length, width = qkv.shape
    parts = qkv.reshape(batch, length, 3, heads, width // (3 * heads))
    return parts.transpose(2, 0, 3, 1, 4)


def attend(
    q: mx.array, k: mx.array, v: mx.array, score_bias: mx.array | None
) -> mx.array:
    """Multi-head attention, ``softmax(q k^T / sqrt(W) + bias) v``, heads merged.

    MLX's own attention on a GPU. On the CPU the softmax is written out because the
    CPU's own costs three times as much.

    Args:
        q: ``[B, N, L, W]`` float32; the others alike.
        k: Keys.
        v: Values.
        score_bias: Added to the scores, of a shape that broadcasts to
            ``[B, N, L, L]``; None adds nothing.

    Returns:
        ``[B, L, N * W]``.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """
    batch, heads, length, width = q.shape
    scale = 1.0 / math.sqrt(width)
    if has_fused_attention():
        mixed = mx.fast.scaled_dot_product_attention(
            q, k, v, scale=scale, mask=score_bias
        )
    else:
        scores = (q * scale) @ k.swapaxes(-1, -2)
        if score_bias is not None:
            scores = scores + score_bias  # [B, N, L, L]
        weights = _exp_below(scores, scores.max(axis=-1, keepdims=True))
        mixed = (weights @ v) / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


def padding_bias(mask: mx.array | None) -> mx.array | None:
    """Scores that hide padding, ``[B, 1, 1, L]`` of a mask ``[B, L]``; None of None."""
    return None if mask is None else ((1.0 - mask) * HIDDEN_SCORE)[:, None, None, :]

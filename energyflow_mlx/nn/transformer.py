"""Post-norm Transformer encoder layer and the sinusoidal position table.

Vaswani et al., "Attention Is All You Need", 2017, sections 3.1 to 3.5; exact GELU in
the feed-forward part. Layer and dropout places equal PyTorch's
``TransformerEncoderLayer`` with ``norm_first=False``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.attention import has_fused_attention
from energyflow_mlx.nn.dropout import active_key, check_rate, dropout, key_stream

# Added to the score of a masked key. Its exponential is 0 in every dtype, and unlike
# minus infinity it leaves a fully masked row finite.
_MASKED_SCORE = -1e4


def sinusoidal_positions(length: int, dim: int) -> mx.array:
    """Position table ``[length, dim]``, float32.

    PE[p, 2i] = sin(p * 10000^(-2i/dim)), PE[p, 2i+1] = cos(p * 10000^(-2i/dim))

    Computed in float64: angles reach ``length`` radians, where float32 would lose
    digits.

    Raises:
        ValueError: ``dim`` is odd.
    """
    if dim % 2:
        raise ValueError(f"[sinusoidal_positions] dim must be even, got {dim}.")
    position = np.arange(length, dtype=np.float64)[:, None]
    frequency = np.exp(np.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    table = np.empty((length, dim))
    table[:, 0::2] = np.sin(position * frequency)
    table[:, 1::2] = np.cos(position * frequency)
    return mx.array(table.astype(np.float32))


def xavier_linear(input_dim: int, output_dim: int) -> nn.Linear:
    """Linear layer with Xavier-uniform weight and zero bias."""
    layer = nn.Linear(input_dim, output_dim)
    bound = math.sqrt(6.0 / (input_dim + output_dim))
    layer.weight = mx.random.uniform(-bound, bound, (output_dim, input_dim))
    layer.bias = mx.zeros(output_dim)
    return layer


class SelfAttention(nn.Module):
    """Multi-head self-attention over the unmasked tokens."""

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        """Create the layer.

        Args:
            dim: Width D.
            heads: Number of heads, a divisor of D.
            dropout: Rate on the attention weights, in training.

        Raises:
            ValueError: ``heads`` does not divide ``dim``.
        """
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(
                f"[SelfAttention] heads must divide dim = {dim}, got {heads}."
            )
        self.query = xavier_linear(dim, dim)
        self.key = xavier_linear(dim, dim)
        self.value = xavier_linear(dim, dim)
        self.output = xavier_linear(dim, dim)
        self._heads = heads
        self._dropout = dropout

    def __call__(
        self, x: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Attend within each row of ``x [B, L, D]``; padding is never a key."""
        b, length, dim = x.shape
        width = dim // self._heads

        def by_head(y: mx.array) -> mx.array:
            return y.reshape(b, length, self._heads, width).transpose(0, 2, 1, 3)

        q, k, v = (by_head(f(x)) for f in (self.query, self.key, self.value))
        bias = ((1.0 - mask) * _MASKED_SCORE).astype(x.dtype)[:, None, None, :]
        scale = 1.0 / math.sqrt(width)
        if has_fused_attention() and (key is None or self._dropout == 0):
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=bias)
        else:
            scores = (q * scale) @ k.transpose(0, 1, 3, 2) + bias
            share = mx.softmax(scores, axis=-1, precise=True)  # [B, heads, L, L]
            if key is not None:
                share = dropout(share, self._dropout, key)
            y = share @ v
        return self.output(y.transpose(0, 2, 1, 3).reshape(b, length, dim))


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with residual, then LayerNorm."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        dropout: float,
        gelu: str,
    ) -> None:
        """Create a layer.

        Args:
            dim: Width D.
            heads: Number of heads, a divisor of D.
            hidden: Feed-forward channels H.
            dropout: Rate at the reference layer's four places, in training.
            gelu: ``"exact"`` or ``"tanh"``.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.expand = xavier_linear(dim, hidden)
        self.contract = xavier_linear(hidden, dim)
        self.output_norm = nn.LayerNorm(dim)
        self._dropout = check_rate("TransformerLayer", dropout)
        self._gelu = activation(gelu)

    def __call__(
        self, x: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Apply the layer to ``x [B, L, D]`` with ``mask [B, L]``.

        Raises:
            ValueError: A key is missing in training with dropout.
        """
        key = active_key(
            "TransformerLayer", training=self.training, rate=self._dropout, key=key
        )
        keys = key_stream(key)

        def drop(y: mx.array) -> mx.array:
            fresh = next(keys)
            return y if fresh is None else dropout(y, self._dropout, fresh)

        attended = self.attention(x, mask, key=next(keys))
        x = self.attention_norm(x + drop(attended))
        h = drop(self._gelu(self.expand(x)))  # [B, L, H]
        return self.output_norm(x + drop(self.contract(h)))


@dataclass(frozen=True)
class LayerList:
    """The layers of a network; iterating builds them, one at a time.

    Attributes:
        count: Number of layers.
        dim: Width D.
        heads: Attention heads, a divisor of D.
        hidden: Feed-forward channels H.
        dropout: Rate in training.
        gelu: ``"exact"`` or ``"tanh"``.
    """

    count: int
    dim: int
    heads: int
    hidden: int
    dropout: float
    gelu: str

    def __iter__(self) -> Iterator[TransformerLayer]:
        """Build the layers."""
        for _ in range(self.count):
            yield TransformerLayer(
                self.dim, self.heads, self.hidden, dropout=self.dropout, gelu=self.gelu
            )

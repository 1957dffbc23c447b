"""Student encoders: token ids to one vector per sentence.

Both families end in a masked mean, so that padding never reaches the result. Vectors
are not normalised: the loss and the caller decide.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.dropout import active_key, check_rate, key_stream
from energyflow_mlx.nn.dropout import dropout as drop_elements
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.nn.transformer import (
    TransformerLayer,
    sinusoidal_positions,
    xavier_linear,
)
from energyflow_mlx.ops import masked_mean
from energyflow_mlx.text.stack import check_shared, own_blocks, run_blocks

_EMBEDDING_STD = 0.02


def new_embedding(vocab_size: int, dim: int) -> nn.Embedding:
    """Create a token table, normal with standard deviation 0.02."""
    table = nn.Embedding(vocab_size, dim)
    table.weight = mx.random.normal((vocab_size, dim), scale=_EMBEDDING_STD)
    return table


def check_tokens(name: str, ids: mx.array, mask: mx.array) -> None:
    """Check that ids are integers ``[B, L]`` and the mask has their shape.

    Raises:
        ValueError: Shapes differ or there is no token.
        TypeError: ``ids`` are not integers.
    """
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"[{name}] ids must be [B, L], got {list(ids.shape)}.")
    if mask.shape != ids.shape:
        raise ValueError(
            f"[{name}] mask must be [B, L] = {list(ids.shape)}, got {list(mask.shape)}."
        )
    if not mx.issubdtype(ids.dtype, mx.integer):
        raise TypeError(f"[{name}] ids must be integers, got {ids.dtype}.")


class GatedMean(nn.Module):
    """Masked mean in which each token weighs ``g = sigmoid(w.x + b)``.

    y[b] = sum_l mask[b,l] g[b,l] x[b,l] / sum_l mask[b,l] g[b,l]

    The weights start at zero, which makes it the plain masked mean.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, 1)
        self.gate.weight = mx.zeros_like(self.gate.weight)
        self.gate.bias = mx.zeros_like(self.gate.bias)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Pool ``x [B, L, D]`` to ``[B, D]``; a fully masked row gives zeros."""
        g = mx.sigmoid(self.gate(x))  # [B, L, 1]
        weight = masked_mean(g, mask)  # [B, 1]
        return masked_mean(x * g, mask) / mx.maximum(weight, 1e-6)


class TCNEncoder(nn.Module):
    """Embedding, TCN blocks, pooling over real tokens, linear head."""

    def __init__(
        self,
        vocab_size: int,
        output_dim: int,
        *,
        dim: int = 384,
        hidden: int = 512,
        kernel_size: int = 3,
        dilations: Sequence[int] = (1, 2),
        causal: bool = True,
        pooling: str = "mean",
        embedding_rank: int = 0,
        token_dropout: float = 0.0,
        dropout: float = 0.0,
        output_tanh: bool = False,
        gelu: str = "exact",
        shared_blocks: int = 0,
    ) -> None:
        """Create an encoder.

        Args:
            vocab_size: Tokens V.
            output_dim: Width E of the result.
            dim: Width D of the tokens.
            hidden: Width H inside a block.
            kernel_size: Taps of a block's convolution.
            dilations: Distance of the taps, one per block, shared blocks included.
            causal: Whether the own blocks are; shared ones always are.
            pooling: ``"mean"`` or ``"gated"``, see :class:`GatedMean`.
            embedding_rank: Above 0, the token table is ``[V, rank]`` followed by a
                linear map to D.
            token_dropout: Share of tokens hidden in training; the first never is.
            dropout: Rate on each block's branch, in training.
            output_tanh: Whether the result passes a tanh.
            gelu: ``"exact"`` or ``"tanh"``.
            shared_blocks: How many of the last blocks come with the call.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        if pooling not in ("mean", "gated"):
            raise ValueError(
                f"[TCNEncoder] pooling must be 'mean' or 'gated', got {pooling!r}."
            )
        self.embedding = new_embedding(vocab_size, embedding_rank or dim)
        if embedding_rank:
            self.embedding_projection = nn.Linear(embedding_rank, dim, bias=False)
        self.blocks = own_blocks(
            dim,
            hidden,
            kernel_size,
            dilations,
            shared_blocks=shared_blocks,
            causal=causal,
            dropout=dropout,
            gelu=gelu,
        )
        if pooling == "gated":
            self.pool = GatedMean(dim)
        self.head = nn.Linear(dim, output_dim)
        self._dim = dim
        self._factorized = embedding_rank > 0
        self._gated = pooling == "gated"
        self._token_dropout = check_rate("TCNEncoder", token_dropout)
        self._dropout = check_rate("TCNEncoder", dropout)
        self._output_tanh = output_tanh
        self._shared_blocks = shared_blocks

    def __call__(
        self,
        ids: mx.array,
        mask: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Encode sentences.

        Args:
            ids: Rows of the token table, ``[B, L]`` integers, not checked to be in it.
            mask: 1 for real tokens, ``[B, L]``.
            shared: The shared blocks.
            key: Random key, wanted in training when there is any dropout.

        Returns:
            Sentence vectors, ``[B, E]``, not normalised.

        Raises:
            ValueError: Shapes, shared blocks or key do not fit.
            TypeError: ``ids`` are not integers.
        """
        check_tokens("TCNEncoder", ids, mask)
        check_shared("TCNEncoder", shared, self._shared_blocks, self._dim)
        rate = max(self._token_dropout, self._dropout)
        key = active_key("TCNEncoder", training=self.training, rate=rate, key=key)
        if key is not None:
            key, token_key = mx.random.split(key)
            mask = self._drop_tokens(mask, token_key)
        x = self.embedding(ids)
        if self._factorized:
            x = self.embedding_projection(x)
        x = x * mask[..., None].astype(x.dtype)  # [B, L, D]
        x = run_blocks([*self.blocks, *shared], x, mask, key=key)
        pooled = self.pool(x, mask) if self._gated else masked_mean(x, mask)
        y = self.head(pooled)
        return mx.tanh(y) if self._output_tanh else y

    def _drop_tokens(self, mask: mx.array, key: mx.array) -> mx.array:
        if self._token_dropout == 0.0:
            return mask
        keep = mx.random.bernoulli(1.0 - self._token_dropout, mask.shape, key=key)
        # The start token stays, so that no sentence becomes empty.
        keep = mx.logical_or(keep, mx.arange(mask.shape[1]) == 0)
        return mask * keep.astype(mask.dtype)


class TransformerEncoder(nn.Module):
    """Embedding and position table, post-norm layers, masked mean, two-layer head.

    The head is ``Linear -> GELU -> LayerNorm -> Dropout -> Linear``.
    """

    def __init__(
        self,
        vocab_size: int,
        output_dim: int,
        *,
        dim: int = 256,
        layers: int = 2,
        heads: int = 8,
        hidden: int = 512,
        max_length: int = 512,
        dropout: float = 0.1,
        output_tanh: bool = False,
        gelu: str = "exact",
    ) -> None:
        """Create an encoder.

        Args:
            vocab_size: Tokens V.
            output_dim: Width E of the result.
            dim: Width D of the tokens, even.
            layers: Number of layers.
            heads: Attention heads, a divisor of D.
            hidden: Feed-forward channels H.
            max_length: Rows of the position table, which starts sinusoidal and learns.
            dropout: Rate in training, at PyTorch's places and in the head.
            output_tanh: Whether the result passes a tanh.
            gelu: ``"exact"`` or ``"tanh"``.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        self.embedding = new_embedding(vocab_size, dim)
        self.positions = sinusoidal_positions(max_length, dim)
        self.layers = [
            TransformerLayer(dim, heads, hidden, dropout=dropout, gelu=gelu)
            for _ in range(layers)
        ]
        self.expand = xavier_linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = xavier_linear(dim, output_dim)
        self._gelu = activation(gelu)
        self._dropout = check_rate("TransformerEncoder", dropout)
        self._output_tanh = output_tanh

    def __call__(
        self,
        ids: mx.array,
        mask: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Encode sentences.

        Args:
            ids: Rows of the token table, ``[B, L]`` integers, not checked to be in it.
            mask: 1 for real tokens, ``[B, L]``.
            shared: Must be empty: this family has no block a decoder could share.
            key: Random key, wanted in training when there is dropout.

        Returns:
            Sentence vectors, ``[B, E]``, not normalised.

        Raises:
            ValueError: Shapes or key do not fit, or blocks are shared.
            TypeError: ``ids`` are not integers.
        """
        check_tokens("TransformerEncoder", ids, mask)
        check_shared("TransformerEncoder", shared, 0, 0)
        length = ids.shape[1]
        if length > self.positions.shape[0]:
            raise ValueError(
                "[TransformerEncoder] ids must have at most "
                f"{self.positions.shape[0]} columns, got {length}."
            )
        key = active_key(
            "TransformerEncoder", training=self.training, rate=self._dropout, key=key
        )
        keys = key_stream(key)
        x = self.embedding(ids) + self.positions[:length]  # [B, L, D]
        for layer in self.layers:
            x = layer(x, mask, key=next(keys))
        h = self.norm(self._gelu(self.expand(masked_mean(x, mask))))  # [B, D]
        fresh = next(keys)
        if fresh is not None:
            h = drop_elements(h, self._dropout, fresh)
        y = self.head(h)
        return mx.tanh(y) if self._output_tanh else y

"""Student encoders: token ids to one vector per sentence.

Both families end in a masked mean, so that padding never reaches the result. Vectors
are not normalised: the loss and the caller decide.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.dropout import (
    active_key,
    check_rate,
    drop_tokens,
    dropout,
    key_stream,
)
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.nn.token_table import TokenTable
from energyflow_mlx.nn.transformer import (
    LayerList,
    sinusoidal_positions,
    xavier_linear,
)
from energyflow_mlx.ops import masked_mean
from energyflow_mlx.text.blocks import BlockList, check_shared_count, run_blocks


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


def check_rows(name: str, rows: mx.array, mask: mx.array, table: TokenTable) -> None:
    """Check that there is a row of the table's width for each token of the mask.

    Raises:
        ValueError: ``rows`` are not ``[B, L, R]`` for a mask ``[B, L]``.
    """
    expected = (*mask.shape, table.weight.shape[1])
    if rows.shape != expected:
        raise ValueError(
            f"[{name}] rows must be [B, L, R] = {list(expected)}, "
            f"got {list(rows.shape)}."
        )


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
        """Pool ``x [B, L, D]`` to ``[B, D]``; a fully masked row gives zeros.

        ``x`` must be finite at padding too: the weighted sum is a matrix product, which
        a CPU does in a third of the time of a pass over ``x`` and a sum.
        """
        g = mx.sigmoid(self.gate(x)[..., 0]) * mask.astype(x.dtype)  # [B, L]
        total = mx.sum(g.astype(mx.float32), axis=-1, keepdims=True)  # [B, 1]
        pooled = (g[:, None, :] @ x)[:, 0]  # [B, D]
        return pooled / mx.maximum(total, 1e-6).astype(x.dtype)


class TCNEncoder(nn.Module):
    """Embedding, TCN blocks, pooling over real tokens, linear head.

    Between the blocks there may be contexts, see :class:`BlockList`.
    """

    def __init__(
        self,
        vocab_size: int,
        output_dim: int,
        blocks: BlockList,
        *,
        pooling: str,
        embedding_rank: int,
        token_dropout: float,
        output_tanh: bool,
    ) -> None:
        """Create an encoder.

        Args:
            vocab_size: Tokens V.
            output_dim: Width E of the result.
            blocks: Its blocks, those it shares included.
            pooling: ``"mean"`` or ``"gated"``, see :class:`GatedMean`.
            embedding_rank: Above 0, the token table is ``[V, rank]`` followed by a
                linear map to D.
            token_dropout: Share of tokens hidden in training; the first never is.
            output_tanh: Whether the result passes a tanh.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        if pooling not in ("mean", "gated"):
            raise ValueError(
                f"[TCNEncoder] pooling must be 'mean' or 'gated', got {pooling!r}."
            )
        dim = blocks.dim
        self.embedding = TokenTable(vocab_size, embedding_rank or dim)
        if embedding_rank:
            self.embedding_projection = nn.Linear(embedding_rank, dim, bias=False)
        self.blocks = list(blocks)
        self.contexts = blocks.build_contexts()
        if pooling == "gated":
            self.pool = GatedMean(dim)
        self.head = nn.Linear(dim, output_dim)
        self._list = blocks
        self._factorized = embedding_rank > 0
        self._gated = pooling == "gated"
        self._token_dropout = check_rate("TCNEncoder", token_dropout)
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
            ids: Token ids, ``[B, L]`` integers; zeros for one outside the table.
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
        return self.encode_rows(self.embedding(ids), mask, shared, key=key)

    def encode_rows(
        self,
        rows: mx.array,
        mask: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Encode sentences given as rows of the token table, or mixtures of them.

        The other arguments, the result and the errors are those of a call.

        Args:
            rows: A row for each token, ``[B, L, R]``, R the width of the token table.
            mask: 1 for real tokens, ``[B, L]``.
            shared: The shared blocks.
            key: Random key.
        """
        check_rows("TCNEncoder", rows, mask, self.embedding)
        self._list.check_shared("TCNEncoder", shared)
        rate = max(self._token_dropout, self._list.dropout)
        key = active_key("TCNEncoder", training=self.training, rate=rate, key=key)
        if key is not None:
            key, token_key = mx.random.split(key)
            mask = drop_tokens(mask, self._token_dropout, token_key)
        x = self.embedding_projection(rows) if self._factorized else rows
        x = x * mask[..., None].astype(x.dtype)  # [B, L, D]
        blocks = [*self.blocks, *shared]
        x = run_blocks(blocks, x, mask, contexts=self.contexts, key=key)
        pooled = self.pool(x, mask) if self._gated else masked_mean(x, mask)
        y = self.head(pooled)
        return mx.tanh(y) if self._output_tanh else y


class TransformerEncoder(nn.Module):
    """Embedding and position table, post-norm layers, masked mean, two-layer head.

    The head is ``Linear -> GELU -> LayerNorm -> Dropout -> Linear``.
    """

    def __init__(
        self,
        vocab_size: int,
        output_dim: int,
        layers: LayerList,
        *,
        max_length: int,
        token_dropout: float,
        output_tanh: bool,
    ) -> None:
        """Create an encoder.

        Args:
            vocab_size: Tokens V.
            output_dim: Width E of the result.
            layers: Its layers; their dropout and GELU are the head's too.
            max_length: Rows of the position table, which starts sinusoidal and learns.
            token_dropout: Share of tokens hidden in training; the first never is.
            output_tanh: Whether the result passes a tanh.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        dim = layers.dim
        self.embedding = TokenTable(vocab_size, dim)
        self.positions = sinusoidal_positions(max_length, dim)
        self.layers = list(layers)
        self.expand = xavier_linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = xavier_linear(dim, output_dim)
        self._gelu = activation(layers.gelu)
        self._dropout = check_rate("TransformerEncoder", layers.dropout)
        self._token_dropout = check_rate("TransformerEncoder", token_dropout)
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
            ids: Token ids, ``[B, L]`` integers; zeros for one outside the table.
            mask: 1 for real tokens, ``[B, L]``.
            shared: Must be empty: this family has no block a decoder could share.
            key: Random key, wanted in training when there is any dropout.

        Returns:
            Sentence vectors, ``[B, E]``, not normalised.

        Raises:
            ValueError: Shapes or key do not fit, or blocks are shared.
            TypeError: ``ids`` are not integers.
        """
        check_tokens("TransformerEncoder", ids, mask)
        return self.encode_rows(self.embedding(ids), mask, shared, key=key)

    def encode_rows(
        self,
        rows: mx.array,
        mask: mx.array,
        shared: Sequence[TCNBlock] = (),
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Encode sentences given as rows of the token table, or mixtures of them.

        The other arguments, the result and the errors are those of a call.

        Args:
            rows: A row for each token, ``[B, L, D]``.
            mask: 1 for real tokens, ``[B, L]``.
            shared: Must be empty.
            key: Random key.
        """
        check_rows("TransformerEncoder", rows, mask, self.embedding)
        check_shared_count("TransformerEncoder", shared, 0)
        length = rows.shape[1]
        if length > self.positions.shape[0]:
            raise ValueError(
                "[TransformerEncoder] ids must have at most "
                f"{self.positions.shape[0]} columns, got {length}."
            )
        rate = max(self._token_dropout, self._dropout)
        key = active_key(
            "TransformerEncoder", training=self.training, rate=rate, key=key
        )
        if key is not None and self._token_dropout > 0.0:
            key, token_key = mx.random.split(key)
            mask = drop_tokens(mask, self._token_dropout, token_key)
        keys = key_stream(key)
        x = rows + self.positions[:length]  # [B, L, D]
        for layer in self.layers:
            x = layer(x, mask, key=next(keys))
        h = self.norm(self._gelu(self.expand(masked_mean(x, mask))))  # [B, D]
        fresh = next(keys)
        if fresh is not None:
            h = dropout(h, self._dropout, fresh)
        y = self.head(h)
        return mx.tanh(y) if self._output_tanh else y

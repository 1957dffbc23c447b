"""Post-norm sentence encoders in MLX, for inference only.

One module covers BERT, DistilBERT, RoBERTa, XLM-RoBERTa, CamemBERT and MPNet: a
post-norm Transformer encoder with learned positions. They differ in the numbering of
positions, in the segment table, and in MPNet's bias by relative position.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3; Liu et al. 2019,
arXiv:1907.11692; Song et al. 2020, arXiv:2004.09297, with the buckets of relative
positions of Raffel et al. 2020, arXiv:1910.10683, section 2.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.teacher.attention import attend, padding_bias, split_heads
from energyflow_mlx.teacher.layouts import BertConfig
from energyflow_mlx.teacher.weights import StoredNames

# The published models' code fixes both, whatever their configuration says.
RELATIVE_BUCKETS = 32
_FARTHEST = 128


class BertLayer(nn.Module):
    """One post-norm Transformer layer: attention, then feed-forward."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self._gelu = activation(config.gelu)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.attention_output = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.expand = nn.Linear(config.dim, config.hidden)
        self.contract = nn.Linear(config.hidden, config.dim)
        self.output_norm = nn.LayerNorm(config.dim, config.norm_eps)

    def __call__(self, x: mx.array, score_bias: mx.array | None) -> mx.array:
        """Transform token features.

        Args:
            x: ``[B, L, D]`` float32.
            score_bias: Added to the attention scores, ``[B, 1, 1, L]`` or
                ``[B, N, L, L]``; None adds nothing.

        Returns:
            ``[B, L, D]``.
        """
        q, k, v = split_heads(self.qkv(x), self._heads)
        mixed = self.attention_output(attend(q, k, v, score_bias))
        x = self.attention_norm(x + mixed)
        return self.output_norm(x + self.contract(self._gelu(self.expand(x))))


class BertEncoder(nn.Module):
    """Token features of a post-norm encoder.

    Args:
        config: The parsed ``config.json``.
        source: Its path, for messages.

    Raises:
        InputError: A size or an option is missing or impossible.
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        super().__init__()
        parsed = BertConfig.from_json(config, source)
        self._config = parsed
        self.word_embeddings = nn.Embedding(parsed.vocab_size, parsed.dim)
        self.position_embeddings = nn.Embedding(parsed.max_positions, parsed.dim)
        if parsed.segments:
            self.segment_embeddings = nn.Embedding(parsed.segments, parsed.dim)
        if parsed.is_relative:
            self.relative_bias = nn.Embedding(RELATIVE_BUCKETS, parsed.heads)
        self.embedding_norm = nn.LayerNorm(parsed.dim, parsed.norm_eps)
        self.layers = [BertLayer(parsed) for _ in range(parsed.layers)]

    @property
    def longest(self) -> int:
        """The longest input in tokens."""
        return self._config.max_positions - self._config.first_position

    @property
    def stored_names(self) -> StoredNames:
        """Where the parameters are in a checkpoint."""
        return self._config.stored_names()

    def __call__(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        """Encode token ids; every token is of segment 0.

        Args:
            ids: ``[B, L]`` int32, each in ``[0, V)``.
            mask: 1 for real tokens and 0 for padding, ``[B, L]``; None when no row
                is padded.

        Returns:
            The last layer's features, ``[B, L, D]`` float32; those of padding are
            meaningless.
        """
        x = self.word_embeddings(ids) + self._positions(ids)
        if self._config.segments:
            x = x + self.segment_embeddings.weight[0]
        x = self.embedding_norm(x)
        score_bias = padding_bias(mask)
        if self._config.is_relative:
            nearness = self._nearness(ids.shape[1])
            score_bias = nearness if score_bias is None else score_bias + nearness
        for layer in self.layers:
            x = layer(x, score_bias)
        return x

    def _positions(self, ids: mx.array) -> mx.array:
        """Rows of the position table, ``[L, D]`` or ``[B, L, D]``.

        Where positions begin after the padding id, a padding token has that id as its
        position and is not counted, wherever it stands.
        """
        pad = self._config.padding_id
        if pad is None:
            return self.position_embeddings.weight[: ids.shape[1]]
        is_counted = (ids != pad).astype(mx.int32)
        return self.position_embeddings(mx.cumsum(is_counted, 1) * is_counted + pad)

    def _nearness(self, length: int) -> mx.array:
        """Scores by relative position, ``[1, N, L, L]``."""
        bias = self.relative_bias(mx.array(relative_buckets(length)))
        return bias.transpose(2, 0, 1)[None]


@functools.cache
def relative_buckets(length: int) -> np.ndarray:
    """Bucket of the way from each query to each key, ``[L, L]`` int32.

    Half of the buckets is for keys behind the query. Of each half the first half is
    one distance each, the others grow with its logarithm up to 128.
    """
    half = RELATIVE_BUCKETS // 2
    exact = half // 2
    way = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(way)
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(_FARTHEST / exact))
    far = exact + (steps * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + half * (way > 0)).astype(np.int32)

"""BERT-family sentence encoders in MLX, for inference only.

One module covers BertModel and DistilBertModel: a post-norm Transformer encoder with
learned positions. ``load_teacher`` fills it from a folder and wraps it with its
tokenizer and pooling into a ``Teacher``.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3; Vaswani et al. 2017,
arXiv:1706.03762, section 3.2 (attention), in the post-norm form.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from energyflow_mlx.errors import InputError
from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.attention import has_fused_attention
from energyflow_mlx.ops import fast_exp, masked_mean
from energyflow_mlx.teacher.folder import Pooling, TeacherFolder, open_folder
from energyflow_mlx.teacher.layouts import BertConfig, convert_weights
from energyflow_mlx.teacher.teacher import Teacher

# Added to the score of a padded key: its weight is then 0 in float32.
_PADDED_SCORE = -1e9


@mx.compile
def _exp_below(scores: mx.array, peak: mx.array) -> mx.array:
    return fast_exp(scores - peak)


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
            score_bias: Added to the attention scores, ``[B, 1, 1, L]``; None when
                no row is padded.

        Returns:
            ``[B, L, D]``.
        """
        x = self.attention_norm(x + self._attend(x, score_bias))
        return self.output_norm(x + self.contract(self._gelu(self.expand(x))))

    def _attend(self, x: mx.array, score_bias: mx.array | None) -> mx.array:
        """Multi-head attention, ``softmax(Q K^T / sqrt(D / heads)) V``.

        MLX's own attention on a GPU. On the CPU the softmax is written out because the
        CPU's own costs three times as much.
        """
        batch, length, dim = x.shape
        width = dim // self._heads
        qkv = self.qkv(x).reshape(batch, length, 3, self._heads, width)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, L, width]
        scale = 1.0 / math.sqrt(width)
        if has_fused_attention():
            mixed = mx.fast.scaled_dot_product_attention(
                q, k, v, scale=scale, mask=score_bias
            )
        else:
            scores = (q * scale) @ k.swapaxes(-1, -2)
            if score_bias is not None:
                scores = scores + score_bias  # [B, heads, L, L]
            weights = _exp_below(scores, scores.max(axis=-1, keepdims=True))
            mixed = (weights @ v) / weights.sum(axis=-1, keepdims=True)
        merged = mixed.transpose(0, 2, 1, 3).reshape(batch, length, dim)
        return self.attention_output(merged)


class BertEncoder(nn.Module):
    """Token features of a BERT-family encoder.

    Args:
        config: Sizes and options.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self._segments = config.segments
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.position_embeddings = nn.Embedding(config.max_positions, config.dim)
        if config.segments:
            self.segment_embeddings = nn.Embedding(config.segments, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.layers = [BertLayer(config) for _ in range(config.layers)]

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
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]
        if self._segments:
            x = x + self.segment_embeddings.weight[0]
        x = self.embedding_norm(x)
        score_bias = None
        if mask is not None:
            score_bias = ((1.0 - mask) * _PADDED_SCORE)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, score_bias)
        return x

    def sentence_vectors(
        self, ids: mx.array, mask: mx.array | None, pooling: Pooling
    ) -> mx.array:
        """One vector per row: the mean over real tokens, or the first token's.

        Args:
            ids: ``[B, L]`` int32.
            mask: As for the call.
            pooling: ``mean`` or ``cls``.

        Returns:
            ``[B, D]`` float32, not normalized.
        """
        x = self(ids, mask)
        if pooling == "cls":
            return x[:, 0]
        return x.mean(axis=1) if mask is None else masked_mean(x, mask)


def load_encoder(folder: TeacherFolder) -> BertEncoder:
    """Build the encoder of a teacher's folder and fill it; weights are in memory.

    Raises:
        InputError: The weight file is damaged, incomplete or of other shapes.
    """
    config = BertConfig.from_json(folder.config, str(folder.path / "config.json"))
    source = str(folder.weights)
    try:
        stored = mx.load(source)
        encoder = BertEncoder(config)
        weights = convert_weights(stored, config, source)
        _check_shapes(encoder, weights, source)
        encoder.load_weights(list(weights.items()))
        # mx.load is lazy: read everything now, while the file is what was hashed.
        mx.eval(encoder.parameters())
    except RuntimeError as error:
        raise InputError(f"[teacher] {source}: not readable: {error}") from error
    return encoder


def _check_shapes(
    encoder: BertEncoder, weights: dict[str, mx.array], source: str
) -> None:
    for name, parameter in tree_flatten(encoder.parameters()):
        if weights[name].shape != parameter.shape:
            raise InputError(
                f"[teacher] {source}: {name} must be {list(parameter.shape)} by "
                f"config.json, got {list(weights[name].shape)}."
            )


class TeacherSettings(Protocol):
    """What is asked of a teacher, as the configuration of a run has it."""

    name: str
    max_length: int
    normalize: bool


def teacher_from(settings: TeacherSettings) -> Teacher:
    """Load the teacher that a configuration names; see ``load_teacher``."""
    return load_teacher(
        settings.name, settings.max_length, normalize=settings.normalize
    )


def load_teacher(
    name_or_path: str | Path, max_length: int, *, normalize: bool
) -> Teacher:
    """Load a sentence encoder.

    Args:
        name_or_path: ``minilm`` (all-MiniLM-L6-v2 from the installed weights
            package), a local folder, or a Hugging Face hub id.
        max_length: Truncation length in tokens, start and end included.
        normalize: Scale every vector to unit length.

    Raises:
        InputError: The teacher is not there, damaged or of an unknown kind, or
            ``max_length`` exceeds its positions.
    """
    folder = open_folder(name_or_path)
    encoder = load_encoder(folder)
    positions = encoder.position_embeddings.weight.shape[0]
    if not 3 <= max_length <= positions:
        raise InputError(
            f"[teacher] teacher.max_length must be in [3, {positions}] for "
            f"{folder.name}, got {max_length}."
        )
    return Teacher(encoder, folder, max_length=max_length, normalized=normalize)

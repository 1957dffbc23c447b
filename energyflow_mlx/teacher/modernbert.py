"""ModernBERT in MLX, for inference only.

A pre-norm Transformer encoder with rotary positions and gated feed-forward layers.
Most layers attend to a window around each token, every third to all of them.

Source: Warner et al. 2024, arXiv:2412.13663, section 2.1; Su et al. 2021,
arXiv:2104.09864 (rotary positions); Shazeer 2020, arXiv:2002.05202 (GeGLU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from energyflow_mlx.errors import InputError
from energyflow_mlx.nn.activations import activation
from energyflow_mlx.runtime.received import require_type
from energyflow_mlx.teacher.attention import (
    HIDDEN_SCORE,
    attend,
    padding_bias,
    split_heads,
)
from energyflow_mlx.teacher.weights import (
    StoredNames,
    gelu_form,
    number,
    positive,
    require_divisor,
)

MODEL_TYPE = "modernbert"
_FULL, _LOCAL = "full_attention", "sliding_attention"
# The published default of each kind of layer, and its key before there were groups.
_ROPE = {_FULL: ("global_rope_theta", 160_000.0), _LOCAL: ("local_rope_theta", 1e4)}
_PART_NAMES = {
    "attention_norm": "attn_norm",
    "qkv": "attn.Wqkv",
    "attention_output": "attn.Wo",
    "output_norm": "mlp_norm",
    "expand": "mlp.Wi",
    "contract": "mlp.Wo",
}
_TABLE_NAMES = {
    "word_embeddings": "embeddings.tok_embeddings",
    "embedding_norm": "embeddings.norm",
    "final_norm": "final_norm",
}


@dataclass(frozen=True)
class ModernBertConfig:
    """Sizes and options of one ModernBERT.

    Attributes:
        vocab_size: Rows of the word embedding, V.
        dim: Token width D.
        heads: Attention heads N; divides ``dim``.
        hidden: Width H of the feed-forward layer, gates apart.
        max_positions: The longest input.
        norm_eps: Added to the variance in every layer norm.
        gelu: Form of the activation.
        is_local: For each layer, whether it attends to a window only.
        window: Most tokens between a query and a key of such a layer.
        bases: Base of the rotary positions of a layer over all tokens, and of one
            over a window.
        biases: Whether attention, feed-forward layers and norms have biases.
    """

    vocab_size: int
    dim: int
    heads: int
    hidden: int
    max_positions: int
    norm_eps: float
    gelu: str
    is_local: tuple[bool, ...]
    window: int
    bases: tuple[float, float]
    biases: tuple[bool, bool, bool]

    @classmethod
    def from_json(cls, config: Mapping[str, Any], source: str) -> ModernBertConfig:
        """Read the sizes from a parsed ``config.json``.

        Args:
            config: The parsed file.
            source: Its path, for messages.

        Raises:
            InputError: A missing or impossible value.
        """
        parsed = cls(
            vocab_size=positive(config, "vocab_size", source),
            dim=positive(config, "hidden_size", source),
            heads=positive(config, "num_attention_heads", source),
            hidden=positive(config, "intermediate_size", source),
            max_positions=positive(config, "max_position_embeddings", source),
            norm_eps=number(config, "norm_eps", source, 1e-5),
            gelu=gelu_form(config.get("hidden_activation", "gelu"), source),
            is_local=_local_layers(config, source),
            window=positive(config, "local_attention", source, 128) // 2,
            bases=(_base(config, _FULL, source), _base(config, _LOCAL, source)),
            biases=(
                bool(config.get("attention_bias", False)),
                bool(config.get("mlp_bias", False)),
                bool(config.get("norm_bias", False)),
            ),
        )
        require_divisor(parsed.heads, parsed.dim, source)
        return parsed


def _local_layers(config: Mapping[str, Any], source: str) -> tuple[bool, ...]:
    layers = positive(config, "num_hidden_layers", source)
    period = positive(config, "global_attn_every_n_layers", source, 3)
    usual = [_LOCAL if index % period else _FULL for index in range(layers)]
    kinds = config.get("layer_types") or usual
    require_type(kinds, list[str], f"[teacher] {source}: layer_types")
    if len(kinds) != layers or not {_FULL, _LOCAL}.issuperset(kinds):
        raise InputError(
            f"[teacher] {source}: layer_types must be {layers} of {_FULL} and "
            f"{_LOCAL}, got {kinds!r}."
        )
    return tuple(kind == _LOCAL for kind in kinds)


def _base(config: Mapping[str, Any], kind: str, source: str) -> float:
    """Base of the rotary positions of one kind of layer."""
    key, usual = _ROPE[kind]
    groups = config.get("rope_parameters") or {}
    require_type(groups, dict[str, Any], f"[teacher] {source}: rope_parameters")
    group = groups.get(kind) or {}
    require_type(group, dict[str, Any], f"[teacher] {source}: {kind}")
    scaling = config.get("rope_scaling") or group.get("rope_type", "default")
    if scaling != "default":
        raise InputError(
            f"[teacher] {source}: rotary positions must not be scaled, got {scaling!r}."
        )
    if group.get("rope_theta"):
        return number(group, "rope_theta", source, usual)
    return number(config, key, source, usual)


class ModernBertLayer(nn.Module):
    """One pre-norm layer: attention with rotary positions, then a gated feed-forward.

    Args:
        config: Sizes and options.
        index: Its number; the first has no norm before its attention.
    """

    def __init__(self, config: ModernBertConfig, index: int) -> None:
        super().__init__()
        attention, feed_forward, norm = config.biases
        self._heads = config.heads
        self._base = config.bases[config.is_local[index]]
        self._gelu = activation(config.gelu)
        if index:
            self.attention_norm = _norm(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, attention)
        self.attention_output = nn.Linear(config.dim, config.dim, attention)
        self.output_norm = _norm(config)
        self.expand = nn.Linear(config.dim, 2 * config.hidden, feed_forward)
        self.contract = nn.Linear(config.hidden, config.dim, feed_forward)

    def __call__(self, x: mx.array, score_bias: mx.array | None) -> mx.array:
        """Transform token features.

        Args:
            x: ``[B, L, D]`` float32.
            score_bias: Added to the attention scores, ``[B, 1, 1, L]`` or
                ``[B, 1, L, L]``; None adds nothing.

        Returns:
            ``[B, L, D]``.
        """
        h = self.attention_norm(x) if "attention_norm" in self else x
        q, k, v = split_heads(self.qkv(h), self._heads)
        mixed = attend(self._rotate(q), self._rotate(k), v, score_bias)
        x = x + self.attention_output(mixed)
        value, gate = mx.split(self.expand(self.output_norm(x)), 2, axis=-1)
        return x + self.contract(self._gelu(value) * gate)

    def _rotate(self, x: mx.array) -> mx.array:
        return mx.fast.rope(
            x, x.shape[-1], traditional=False, base=self._base, scale=1.0, offset=0
        )


def _norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.dim, config.norm_eps, bias=config.biases[2])


class ModernBertEncoder(nn.Module):
    """Token features of a ModernBERT.

    Args:
        config: The parsed ``config.json``.
        source: Its path, for messages.

    Raises:
        InputError: A size or an option is missing or impossible.
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        super().__init__()
        parsed = ModernBertConfig.from_json(config, source)
        self._config = parsed
        self.word_embeddings = nn.Embedding(parsed.vocab_size, parsed.dim)
        self.embedding_norm = _norm(parsed)
        count = len(parsed.is_local)
        self.layers = [ModernBertLayer(parsed, index) for index in range(count)]
        self.final_norm = _norm(parsed)

    @property
    def longest(self) -> int:
        """The longest input in tokens."""
        return self._config.max_positions

    @property
    def stored_names(self) -> StoredNames:
        """Where the parameters are in a checkpoint."""
        names = {}
        for ours, _ in tree_flatten(self.parameters()):
            path, kind = ours.rsplit(".", 1)
            *owner, part = path.rsplit(".", 1)
            name = f"{owner[0]}.{_PART_NAMES[part]}" if owner else _TABLE_NAMES[path]
            names[ours] = (f"{name}.{kind}",)
        return StoredNames("layers", len(self.layers), names)

    def __call__(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        """Encode token ids.

        Args:
            ids: ``[B, L]`` int32, each in ``[0, V)``.
            mask: 1 for real tokens and 0 for padding, ``[B, L]``; None when no row
                is padded.

        Returns:
            The last layer's features after the final norm, ``[B, L, D]`` float32;
            those of padding are meaningless.
        """
        x = self.embedding_norm(self.word_embeddings(ids))
        everywhere = padding_bias(mask)
        nearby = _add(everywhere, window_bias(ids.shape[1], self._config.window))
        for layer, is_local in zip(self.layers, self._config.is_local, strict=True):
            x = layer(x, nearby if is_local else everywhere)
        return self.final_norm(x)


def _add(first: mx.array | None, second: mx.array | None) -> mx.array | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def window_bias(length: int, window: int) -> mx.array | None:
    """Scores that hide keys more than ``window`` tokens away, ``[1, 1, L, L]``.

    None where all are near enough.
    """
    if length <= window + 1:
        return None
    place = np.arange(length)
    is_far = np.abs(place[:, None] - place[None, :]) > window
    return mx.array(np.where(is_far, HIDDEN_SCORE, 0.0).astype(np.float32))[None, None]

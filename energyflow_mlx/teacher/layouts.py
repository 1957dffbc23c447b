"""Shapes and weight names of the BERT family: what ``config.json`` says.

Two layouts are known: ``bert`` (BERT itself, MiniLM and most sentence encoders) and
``distilbert``. Both are post-norm Transformer encoders; DistilBERT has no segment
embedding and other names. Here both are brought to one set of names and shapes, those
of ``bert.BertEncoder``.

Source of the names: the published checkpoints of BERT (Devlin et al. 2019,
arXiv:1810.04805) and DistilBERT (Sanh et al. 2019, arXiv:1910.01108).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from energyflow_mlx.errors import InputError

_GELU_FORMS: dict[str, str] = {
    "gelu": "exact",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
_SIZE_FIELDS = ("vocab_size", "dim", "layers", "heads", "hidden", "max_positions")
# Their keys in each layout's config.json.
_SIZE_KEYS = {
    "bert": (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    ),
    "distilbert": (
        "vocab_size",
        "dim",
        "n_layers",
        "n_heads",
        "hidden_dim",
        "max_position_embeddings",
    ),
}
_ACTIVATION_KEY = {"bert": "hidden_act", "distilbert": "activation"}
_PREFIXES = ("bert.", "distilbert.")
_LAYER = {"bert": "encoder.layer", "distilbert": "transformer.layer"}
# Our name inside a layer -> the checkpoint's names; several are stacked by rows.
_LAYER_PARTS = {
    "bert": {
        "qkv": (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ),
        "attention_output": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "expand": ("intermediate.dense",),
        "contract": ("output.dense",),
        "output_norm": ("output.LayerNorm",),
    },
    "distilbert": {
        "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention_output": ("attention.out_lin",),
        "attention_norm": ("sa_layer_norm",),
        "expand": ("ffn.lin1",),
        "contract": ("ffn.lin2",),
        "output_norm": ("output_layer_norm",),
    },
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and options of one BERT-family encoder.

    Attributes:
        layout: ``bert`` or ``distilbert``, the naming of the checkpoint.
        vocab_size: Rows of the word embedding, V.
        dim: Token width D, which is also the width of the sentence vector.
        layers: Number of Transformer layers.
        heads: Attention heads; divides ``dim``.
        hidden: Width H of the feed-forward layer.
        max_positions: Rows of the position table; the longest input.
        segments: Rows of the segment table; 0 = no such table.
        norm_eps: Added to the variance in every layer norm.
        gelu: Form of the activation.
    """

    layout: str
    vocab_size: int
    dim: int
    layers: int
    heads: int
    hidden: int
    max_positions: int
    segments: int
    norm_eps: float
    gelu: str

    @classmethod
    def from_json(cls, config: Mapping[str, Any], source: str) -> BertConfig:
        """Read the sizes from a parsed ``config.json``.

        Args:
            config: The parsed file.
            source: Its path, for messages.

        Raises:
            InputError: Another architecture, or a missing or impossible value.
        """
        layout = config.get("model_type")
        if layout not in _SIZE_KEYS:
            raise InputError(
                f"[teacher] {source}: model_type must be bert or distilbert, "
                f"got {layout!r}."
            )
        sizes = {
            field: _positive(config, key, source)
            for field, key in zip(_SIZE_FIELDS, _SIZE_KEYS[layout], strict=True)
        }
        segments = _positive(config, "type_vocab_size", source, 2)
        parsed = cls(
            layout=layout,
            segments=segments if layout == "bert" else 0,
            norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            gelu=_gelu_form(config.get(_ACTIVATION_KEY[layout], "gelu"), source),
            **sizes,
        )
        parsed._check(config, source)
        return parsed

    def _check(self, config: Mapping[str, Any], source: str) -> None:
        if self.dim % self.heads:
            raise InputError(
                f"[teacher] {source}: the number of attention heads must divide "
                f"the width {self.dim}, got {self.heads}."
            )
        positions = config.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise InputError(
                f"[teacher] {source}: position_embedding_type must be absolute, "
                f"got {positions!r}."
            )


def _positive(
    config: Mapping[str, Any], key: str, source: str, default: int | None = None
) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"[teacher] {source}: {key} must be a positive integer, got {value!r}."
        )
    return value


def _gelu_form(name: object, source: str) -> str:
    if not isinstance(name, str) or name not in _GELU_FORMS:
        raise InputError(
            f"[teacher] {source}: the activation must be one of "
            f"{', '.join(_GELU_FORMS)}, got {name!r}."
        )
    return _GELU_FORMS[name]


def convert_weights(
    stored: Mapping[str, mx.array], config: BertConfig, source: str
) -> dict[str, mx.array]:
    """Bring a checkpoint's tensors to the names of ``BertEncoder``, in float32.

    Heads of pre-training and the pooler are left out; everything the encoder needs
    must be there.

    Args:
        stored: Tensors as read from the file.
        config: The file's layout.
        source: The file's path, for messages.

    Returns:
        Tensors by parameter path.

    Raises:
        InputError: A tensor is missing, or the file has more layers than ``config``.
    """
    tensors = {_plain_name(name): array for name, array in stored.items()}
    _check_layer_count(tensors, config, source)
    weights = _embedding_weights(tensors, config, source)
    parts = _LAYER_PARTS[config.layout]
    for index in range(config.layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names = [
                    f"{_LAYER[config.layout]}.{index}.{part}.{kind}" for part in theirs
                ]
                stacked = [_take(tensors, name, source) for name in names]
                weights[f"layers.{index}.{ours}.{kind}"] = mx.concatenate(stacked)
    return weights


def _plain_name(name: str) -> str:
    """Drop the prefix of a model with a head, and the first BERT's norm names."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _check_layer_count(
    tensors: Mapping[str, mx.array], config: BertConfig, source: str
) -> None:
    pattern = re.compile(re.escape(_LAYER[config.layout]) + r"\.(\d+)\.")
    found = {int(match[1]) for name in tensors if (match := pattern.match(name))}
    if found and max(found) >= config.layers:
        raise InputError(
            f"[teacher] {source}: config.json says {config.layers} layers, "
            f"the file has {max(found) + 1}."
        )


def _embedding_weights(
    tensors: Mapping[str, mx.array], config: BertConfig, source: str
) -> dict[str, mx.array]:
    names = {
        "word_embeddings.weight": "embeddings.word_embeddings.weight",
        "position_embeddings.weight": "embeddings.position_embeddings.weight",
        "embedding_norm.weight": "embeddings.LayerNorm.weight",
        "embedding_norm.bias": "embeddings.LayerNorm.bias",
    }
    if config.segments:
        names["segment_embeddings.weight"] = "embeddings.token_type_embeddings.weight"
    return {ours: _take(tensors, name, source) for ours, name in names.items()}


def _take(tensors: Mapping[str, mx.array], name: str, source: str) -> mx.array:
    if name not in tensors:
        raise InputError(f"[teacher] {source}: tensor {name} is missing.")
    return tensors[name].astype(mx.float32)

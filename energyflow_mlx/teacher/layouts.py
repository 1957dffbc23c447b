"""Sizes and weight names of the post-norm family: what ``config.json`` says.

Checkpoints of one model differ in the names of their keys and tensors. Here all are
brought to one set of names and shapes, those of ``bert.BertEncoder``.

Source of the names: the published checkpoints of BERT (Devlin et al. 2019,
arXiv:1810.04805), DistilBERT (Sanh et al. 2019, arXiv:1910.01108), RoBERTa (Liu et al.
2019, arXiv:1907.11692), XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116), CamemBERT
(Martin et al. 2020, arXiv:1911.03894) and MPNet (Song et al. 2020, arXiv:2004.09297).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher.weights import (
    StoredNames,
    gelu_form,
    number,
    positive,
    require_divisor,
)

_SIZE_FIELDS = ("vocab_size", "dim", "layers", "heads", "hidden", "max_positions")
_PART_NAMES = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "expand": ("intermediate.dense",),
    "contract": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
}


@dataclass(frozen=True)
class Layout:
    """How one kind of checkpoint names and numbers things; the defaults are BERT's.

    Attributes:
        sizes: Keys of ``config.json``, in the order of ``_SIZE_FIELDS``.
        activation: Its key of the activation.
        layer: Prefix of a layer's tensors.
        parts: Our name inside a layer to the checkpoint's; several are stacked by rows.
        has_segments: Whether there is a segment table.
        counts_from_padding: Whether positions begin after the padding token's id.
        is_relative: Whether a bias by relative position is added to the scores.
    """

    sizes: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    )
    activation: str = "hidden_act"
    layer: str = "encoder.layer"
    parts: Mapping[str, tuple[str, ...]] | None = None
    has_segments: bool = True
    counts_from_padding: bool = False
    is_relative: bool = False


_ROBERTA = Layout(counts_from_padding=True)
LAYOUTS = {
    "bert": Layout(),
    "distilbert": Layout(
        sizes=(
            "vocab_size",
            "dim",
            "n_layers",
            "n_heads",
            "hidden_dim",
            "max_position_embeddings",
        ),
        activation="activation",
        layer="transformer.layer",
        parts={
            "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            "attention_output": ("attention.out_lin",),
            "attention_norm": ("sa_layer_norm",),
            "expand": ("ffn.lin1",),
            "contract": ("ffn.lin2",),
            "output_norm": ("output_layer_norm",),
        },
        has_segments=False,
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": Layout(
        parts=_PART_NAMES
        | {
            "qkv": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            "attention_output": ("attention.attn.o",),
            "attention_norm": ("attention.LayerNorm",),
        },
        has_segments=False,
        counts_from_padding=True,
        is_relative=True,
    ),
}
# Fixed in MPNet's code; RoBERTa's default.
_PADDING_ID = 1


@dataclass(frozen=True)
class BertConfig:
    """Sizes and options of one post-norm encoder.

    Attributes:
        layout: Naming of the checkpoint, a key of ``LAYOUTS``.
        vocab_size: Rows of the word embedding, V.
        dim: Token width D.
        layers: Number of Transformer layers.
        heads: Attention heads N; divides ``dim``.
        hidden: Width H of the feed-forward layer.
        max_positions: Rows of the position table.
        segments: Rows of the segment table; 0 = no such table.
        norm_eps: Added to the variance in every layer norm.
        gelu: Form of the activation.
        padding_id: Id after which positions begin; none = they begin at 0.
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
    padding_id: int | None

    @classmethod
    def from_json(cls, config: Mapping[str, Any], source: str) -> BertConfig:
        """Read the sizes from a parsed ``config.json`` of a known layout.

        Args:
            config: The parsed file.
            source: Its path, for messages.

        Raises:
            InputError: A missing or impossible value.
        """
        name = config["model_type"]
        layout = LAYOUTS[name]
        sizes = {
            field: positive(config, key, source)
            for field, key in zip(_SIZE_FIELDS, layout.sizes, strict=True)
        }
        segments = positive(config, "type_vocab_size", source, 2)
        parsed = cls(
            layout=name,
            segments=segments if layout.has_segments else 0,
            norm_eps=number(config, "layer_norm_eps", source, 1e-12),
            gelu=gelu_form(config.get(layout.activation, "gelu"), source),
            padding_id=_padding_id(config, source, layout),
            **sizes,
        )
        require_divisor(parsed.heads, parsed.dim, source)
        _require_absolute(config, source)
        return parsed

    @property
    def is_relative(self) -> bool:
        """Whether a bias by relative position is added to the scores."""
        return LAYOUTS[self.layout].is_relative

    @property
    def first_position(self) -> int:
        """Row of the position table that the first token has."""
        return 0 if self.padding_id is None else self.padding_id + 1

    def stored_names(self) -> StoredNames:
        """The checkpoint's name, or names, of each parameter of ``BertEncoder``."""
        layout = LAYOUTS[self.layout]
        parts = {
            f"layers.{index}.{ours}.{kind}": tuple(
                f"{layout.layer}.{index}.{part}.{kind}" for part in theirs
            )
            for index in range(self.layers)
            for ours, theirs in (layout.parts or _PART_NAMES).items()
            for kind in ("weight", "bias")
        }
        return StoredNames(layout.layer, self.layers, self._table_names() | parts)

    def _table_names(self) -> dict[str, tuple[str, ...]]:
        names = {
            "word_embeddings.weight": "embeddings.word_embeddings.weight",
            "position_embeddings.weight": "embeddings.position_embeddings.weight",
            "embedding_norm.weight": "embeddings.LayerNorm.weight",
            "embedding_norm.bias": "embeddings.LayerNorm.bias",
        }
        if self.segments:
            segments = "embeddings.token_type_embeddings.weight"
            names["segment_embeddings.weight"] = segments
        if self.is_relative:
            relative = "encoder.relative_attention_bias.weight"
            names["relative_bias.weight"] = relative
        return {ours: (theirs,) for ours, theirs in names.items()}


def _padding_id(config: Mapping[str, Any], source: str, layout: Layout) -> int | None:
    if not layout.counts_from_padding:
        return None
    if layout.is_relative:
        return _PADDING_ID
    value = config.get("pad_token_id", _PADDING_ID)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            f"[teacher] {source}: pad_token_id must be an integer >= 0, got {value!r}."
        )
    return value


def _require_absolute(config: Mapping[str, Any], source: str) -> None:
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise InputError(
            f"[teacher] {source}: position_embedding_type must be absolute, "
            f"got {positions!r}."
        )

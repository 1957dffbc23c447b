"""From token features to one vector: the stages of a sentence-transformers folder.

``modules.json`` lists them: the Transformer, a pooling, then any number of dense layers
and normalizations. A folder without it pools by ``1_Pooling/config.json`` or, failing
that, by the mean. Prompts are in ``config_sentence_transformers.json``.

Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (pooling); the folders
that the library sentence-transformers saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast, get_args

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.errors import InputError
from energyflow_mlx.ops import gelu, masked_mean
from energyflow_mlx.runs.safetensors_header import check_safetensors
from energyflow_mlx.runtime.atomic import sha256_of
from energyflow_mlx.runtime.received import (
    is_there,
    read_json,
    read_object,
    require_type,
)
from energyflow_mlx.teacher.weights import StoredNames, fill, positive

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SENTENCE = "sentence_bert_config.json"
_POOLING_FOLDER = "1_Pooling"
_DEFAULT_PROMPT = "default_prompt_name"
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
_SENTENCE_INPUT = "sentence_embedding"

Pooling = Literal["mean", "cls", "last"]
_POOLING_NAMES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls"}
_POOLING_NAMES |= {"cls_token": "cls", "lasttoken": "last"}

_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "Identity": lambda x: x,
    "Tanh": mx.tanh,
    "ReLU": nn.relu,
    "GELU": gelu,
}


@dataclass(frozen=True)
class Dense:
    """One dense layer as its folder describes it.

    Attributes:
        weights: Its ``model.safetensors``.
        sizes: Width of its input and of its output.
        has_bias: Whether it adds a bias.
        activation: A key of ``_ACTIVATIONS``.
    """

    weights: Path
    sizes: tuple[int, int]
    has_bias: bool
    activation: str


@dataclass(frozen=True)
class Stages:
    """What follows the token features, and what precedes the text.

    Attributes:
        pooling: How token features become one vector.
        after: Dense layers, and None for scaling to unit length between them.
        prompts: Texts that can be put before a sentence, by name.
        default_prompt: Name of the one that is used unless another is asked for.
        lower_case: Whether a text is put into lower case first.
        model: Folder of the Transformer inside the teacher's.
    """

    pooling: Pooling
    after: tuple[Dense | None, ...] = ()
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    lower_case: bool = False
    model: str = ""

    def identity(self) -> list[Any]:
        """What shapes the vectors beside pooling and prompt; empty where nothing."""
        dense = [
            stage and (sha256_of(stage.weights), stage.activation)
            for stage in self.after
        ]
        return [dense, self.lower_case] if dense or self.lower_case else []

    def prompt(self, name: str | None, source: str) -> str:
        """Text to put before every sentence.

        Args:
            name: One of ``prompts``; none = the folder's default, which may be none.
            source: The teacher's name, for messages.

        Raises:
            InputError: There is no prompt of that name.
        """
        chosen = name or self.default_prompt
        known = dict(self.prompts)
        if chosen is not None and chosen not in known:
            raise InputError(
                f"[teacher] teacher.prompt must be one of {source}'s prompts, "
                f"{', '.join(known) or 'none'}, got {chosen!r}."
            )
        return known[chosen] if chosen else ""


def read_stages(folder: Path) -> Stages:
    """Read what a teacher's folder says of its stages.

    Raises:
        InputError: A file is damaged, or a stage is of an unknown kind.
    """
    modules = _read_modules(folder / MODULES)
    kinds = [kind for kind, _ in modules]
    if modules and kinds[:2] != ["Transformer", "Pooling"]:
        raise InputError(
            f"[teacher] {folder / MODULES}: modules must begin with Transformer, "
            f"Pooling, got {', '.join(kinds)}."
        )
    model, pooling = (
        ("", _POOLING_FOLDER) if not modules else (p for _, p in modules[:2])
    )
    rest = modules[2:]
    # Scaling at the very end is the caller's choice.
    if rest and rest[-1][0] == "Normalize":
        rest = rest[:-1]
    settings = _optional(folder / PROMPTS)
    prompts, default = settings.get("prompts") or {}, settings.get(_DEFAULT_PROMPT)
    where = f"[teacher] {folder / PROMPTS}"
    require_type(prompts, dict[str, str], f"{where}: prompts")
    require_type(default, str | None, f"{where}: {_DEFAULT_PROMPT}")
    return Stages(
        pooling=_read_pooling(folder / pooling / "config.json"),
        after=tuple(_read_after(folder, kind, path) for kind, path in rest),
        prompts=tuple(prompts.items()),
        default_prompt=default,
        lower_case=_optional(folder / model / SENTENCE).get("do_lower_case") is True,
        model=model,
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path, "teacher") if is_there(path) else {}


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of every stage."""
    if not is_there(path):
        return []
    listed = read_json(path, "teacher")
    require_type(listed, list[dict[str, Any]], f"[teacher] {path}: the modules")
    modules = [(module.get("type"), module.get("path", "")) for module in listed]
    for module in modules:
        require_type(list(module), list[str], f"[teacher] {path}: type and path")
        inside = PurePosixPath(module[1])
        if inside.is_absolute() or ".." in inside.parts:
            raise InputError(
                f"[teacher] {path}: a module's path must stay in the folder, got "
                f"{module[1]!r}."
            )
    modules = [(kind.rsplit(".", 1)[-1], inside) for kind, inside in modules]
    for kind, _ in modules:
        if kind not in _KNOWN:
            raise InputError(
                f"[teacher] {path}: modules must be among {', '.join(_KNOWN)}, "
                f"got {kind}."
            )
    return modules


def _read_pooling(path: Path) -> Pooling:
    """Mean over real tokens unless the model says otherwise."""
    if not is_there(path):
        return "mean"
    modes = read_object(path, "teacher")
    chosen = modes.get("pooling_mode")
    if chosen is None:
        flags = (key for key, value in modes.items() if value is True)
        named = [key for key in flags if key.startswith("pooling_mode_")]
        chosen = sorted(key.removeprefix("pooling_mode_") for key in named)
    require_type(chosen, str | list[str], f"[teacher] {path}: pooling_mode")
    listed = [chosen] if isinstance(chosen, str) else chosen
    if len(listed) != 1 or listed[0] not in _POOLING_NAMES:
        raise InputError(
            f"[teacher] {path}: pooling must be mean_tokens, cls_token or lasttoken "
            f"alone, got {', '.join(listed) or 'none'}."
        )
    return cast(Pooling, _POOLING_NAMES[listed[0]])


def _read_after(folder: Path, kind: str, path: str) -> Dense | None:
    if kind == "Normalize":
        return None
    source = folder / path / "config.json"
    if kind != "Dense":
        raise InputError(
            f"[teacher] {folder / MODULES}: only Dense and Normalize may follow the "
            f"pooling, got {kind}."
        )
    config = read_object(source, "teacher")
    name = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if name not in _ACTIVATIONS:
        raise InputError(
            f"[teacher] {source}: activation_function must be one of "
            f"{', '.join(_ACTIVATIONS)}, got {name}."
        )
    if config.get("module_input_name", _SENTENCE_INPUT) != _SENTENCE_INPUT:
        raise InputError(f"[teacher] {source}: must read {_SENTENCE_INPUT}.")
    weights = folder / path / "model.safetensors"
    if not is_there(weights):
        raise InputError(
            f"[teacher] {weights} is missing; a pytorch_model.bin is a pickle, which "
            "is never read."
        )
    check_safetensors(weights, "teacher")
    has_bias = config.get("bias", True)
    require_type(has_bias, bool, f"[teacher] {source}: bias")
    sizes = tuple(positive(config, key, str(source)) for key in _WIDTHS)
    return Dense(weights, cast(tuple[int, int], sizes), has_bias, name)


_WIDTHS = ("in_features", "out_features")


class Head(nn.Module):
    """Pools token features and applies the dense layers.

    Args:
        stages: What to apply.
        dim: Token width D.

    Attributes:
        dimension: Width E of the vectors.

    Raises:
        InputError: A dense layer does not fit, or its file is damaged.
    """

    def __init__(self, stages: Stages, dim: int) -> None:
        super().__init__()
        self._stages = stages
        self.dense = []
        for stage in filter(None, stages.after):
            if stage.sizes[0] != dim:
                raise InputError(
                    f"[teacher] {stage.weights}: in_features must be {dim}, the width "
                    f"before it, got {stage.sizes[0]}."
                )
            layer = nn.Linear(*stage.sizes, bias=stage.has_bias)
            names = {kind: (f"linear.{kind}",) for kind in ("weight", "bias")}
            fill(layer, StoredNames("layer", 0, names), stage.weights)
            self.dense.append(layer)
            dim = stage.sizes[1]
        self.dimension = dim

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """One vector per row.

        Args:
            x: Token features, ``[B, L, D]`` float32.
            mask: 1 for real tokens and 0 for padding at the end, ``[B, L]``; None
                when no row is padded.

        Returns:
            ``[B, E]`` float32, not normalized at the end.
        """
        y = pool(x, mask, self._stages.pooling)
        layers = iter(self.dense)
        for stage in self._stages.after:
            if stage is None:
                y = unit(y)
            else:
                y = _ACTIVATIONS[stage.activation](next(layers)(y))
        return y


def pool(x: mx.array, mask: mx.array | None, pooling: Pooling) -> mx.array:
    """Token features to one vector per row, ``[B, D]``; see ``Head``."""
    assert pooling in get_args(Pooling)
    if pooling == "cls":
        return x[:, 0]
    if pooling == "last":
        if mask is None:
            return x[:, -1]
        last = mask.sum(axis=1).astype(mx.int32) - 1
        return mx.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return x.mean(axis=1) if mask is None else masked_mean(x, mask)


def unit(y: mx.array) -> mx.array:
    """Rows ``[B, E]`` scaled to unit length; a row of zeros stays."""
    return y / mx.maximum(mx.linalg.norm(y, axis=-1, keepdims=True), 1e-12)

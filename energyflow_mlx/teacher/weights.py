"""A checkpoint's tensors into an encoder, and the values of ``config.json`` checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.safetensors_header import check_safetensors
from energyflow_mlx.runtime.received import require_type

_GELU_FORMS: dict[str, str] = {
    "gelu": "exact",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
_MOST_LAYERS, _MOST_SIZE = 1024, 2**24
# Of a model with a head, before the name of the plain model's tensor.
_PREFIXES = ("bert.", "distilbert.", "roberta.", "mpnet.", "model.")


@dataclass(frozen=True)
class StoredNames:
    """Where the parameters of an encoder are in a checkpoint.

    Attributes:
        layer: Prefix of a layer's tensors, before its number.
        layers: Number of layers.
        names: The checkpoint's name of each parameter; several are stacked by rows.
    """

    layer: str
    layers: int
    names: Mapping[str, tuple[str, ...]]


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Tensors of a ``.safetensors`` file by name.

    Raises:
        InputError: The file is damaged.
    """
    check_safetensors(path, "teacher")
    try:
        stored: dict[str, mx.array] = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"[teacher] {path}: not readable: {error}") from error
    return stored


def fill(module: nn.Module, stored_names: StoredNames, path: Path) -> None:
    """Give a module the tensors of a file, in float32; afterwards they are in memory.

    Heads of pre-training and poolers are left out; every parameter must be there.

    Raises:
        InputError: The file is damaged, a tensor is missing or has another shape, or
            it has more layers.
    """
    tensors = {_plain_name(name): array for name, array in read_tensors(path).items()}
    _check_layer_count(tensors, stored_names, path)
    weights = {}
    for ours, parameter in tree_flatten(module.parameters()):
        parts = [_take(tensors, name, path) for name in stored_names.names[ours]]
        if (
            len({(part.ndim, part.shape[1:]) for part in parts}) > 1
            or not parts[0].ndim
        ):
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise InputError(
                f"[teacher] {path}: the parts of {ours} must be of one width, got "
                f"{shapes}."
            )
        weights[ours] = mx.concatenate(parts)
        if weights[ours].shape != parameter.shape:
            raise InputError(
                f"[teacher] {path}: {ours} must be {list(parameter.shape)} by "
                f"config.json, got {list(weights[ours].shape)}."
            )
    module.load_weights(list(weights.items()))
    try:
        # mx.load is lazy: read everything now, while the file is what was hashed.
        mx.eval(module.parameters())
    except RuntimeError as error:
        raise InputError(f"[teacher] {path}: not readable: {error}") from error
    for ours, array in weights.items():
        if not mx.isfinite(array).all().item():
            raise InputError(f"[teacher] {path}: {ours} must be finite.")


def _plain_name(name: str) -> str:
    """Drop the prefix of a model with a head, and the first BERT's norm names."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _check_layer_count(
    tensors: Mapping[str, mx.array], stored_names: StoredNames, path: Path
) -> None:
    pattern = re.compile(re.escape(stored_names.layer) + r"\.(\d+)\.")
    found = {int(match[1]) for name in tensors if (match := pattern.match(name))}
    if found and max(found) >= stored_names.layers:
        raise InputError(
            f"[teacher] {path}: config.json says {stored_names.layers} layers, "
            f"the file has {max(found) + 1}."
        )


def _take(tensors: Mapping[str, mx.array], name: str, path: Path) -> mx.array:
    if name not in tensors:
        raise InputError(f"[teacher] {path}: tensor {name} is missing.")
    return tensors[name].astype(mx.float32)


def positive(
    config: Mapping[str, Any], key: str, source: str, default: int | None = None
) -> int:
    """A positive integer of a parsed ``config.json``.

    Raises:
        InputError: It is missing without a default, larger than any model's, or
            something else.
    """
    value = config.get(key, default)
    most = _MOST_LAYERS if "layers" in key else _MOST_SIZE
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"[teacher] {source}: {key} must be a positive integer, got {value!r}."
        )
    if value > most:
        raise InputError(
            f"[teacher] {source}: {key} must be at most {most}, got {value}."
        )
    return value


def number(config: Mapping[str, Any], key: str, source: str, default: float) -> float:
    """A number of a parsed ``config.json``.

    Raises:
        InputError: It is something else.
    """
    value = config.get(key, default)
    require_type(value, float, f"[teacher] {source}: {key}")
    return float(value)


def gelu_form(name: object, source: str) -> str:
    """Our name of an activation.

    Raises:
        InputError: It is none of the known ones.
    """
    if not isinstance(name, str) or name not in _GELU_FORMS:
        raise InputError(
            f"[teacher] {source}: the activation must be one of "
            f"{', '.join(_GELU_FORMS)}, got {name!r}."
        )
    return _GELU_FORMS[name]


def require_divisor(heads: int, dim: int, source: str) -> None:
    """Refuse a number of heads that does not divide the width.

    Raises:
        InputError: It does not.
    """
    if dim % heads:
        raise InputError(
            f"[teacher] {source}: the number of attention heads must divide "
            f"the width {dim}, got {heads}."
        )

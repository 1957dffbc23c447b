"""Named arrays in safetensors files, checked on the way in and out.

Matrices may lie there in 8 or 4 bits, each group of ``GROUP`` weights of a row with a
scale and an offset, as ``mlx.nn.quantize`` has them: ``weight`` holds four or eight
integers q in each uint32, ``scales`` and ``biases`` stand beside it.

    w = scale * q + offset,  q in [0, 2^bits)

``write_arrays`` and ``read_arrays`` move one payload of a checkpoint together with its
header entry (size, sha256, shapes, dtypes); ``save_as`` and ``load_full`` are for
weights alone, as ``export`` writes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.dtypes import BITS, require_dtype
from energyflow_mlx.runs.safetensors_header import check_safetensors
from energyflow_mlx.runtime.atomic import flush, sha256_of, write_aside
from energyflow_mlx.runtime.received import require_file

Arrays = dict[str, mx.array]

GROUP = 64  # weights with one scale and offset in float32: one bit more a weight
_ENTRY_BYTES = 256  # of an array's line in a file's header, and more
_GROUP = re.compile(r"[A-Za-z0-9_-]+")
_MATRIX, _SCALES, _OFFSETS = ".weight", ".scales", ".biases"


@dataclass(frozen=True)
class Payload:
    """What a checkpoint's header says of one file.

    Attributes:
        bytes: Its size.
        sha256: Digest of its bytes.
        arrays: Shape and dtype of each array, see ``describe``.
    """

    bytes: int
    sha256: str
    arrays: dict[str, dict[str, Any]]


def save_weights(path: Path, arrays: Mapping[str, mx.array], dtype: mx.Dtype) -> None:
    """Export weights alone as one safetensors file, in another precision.

    A value x within float16's range is stored within ``2^-11 |x| + 2^-25``, in bfloat16
    within ``2^-8 |x|``. Integer and boolean arrays keep their dtype.

    Args:
        path: The file to write, atomically.
        arrays: Named arrays.
        dtype: float32, float16 or bfloat16.

    Raises:
        ValueError: ``dtype`` is no float type.
        InputError: A finite value overflows ``dtype``; names the array.
    """
    if not mx.issubdtype(dtype, mx.floating):
        raise ValueError(f"[weights] dtype must be a float type, got {dtype}.")
    cast: Arrays = {}
    for name, array in arrays.items():
        is_float = mx.issubdtype(array.dtype, mx.floating)
        cast[name] = array.astype(dtype) if is_float else array
        if is_float and mx.any(mx.isfinite(array) & ~mx.isfinite(cast[name])).item():
            raise InputError(
                f"[weights] '{name}' must fit {dtype}, got "
                f"{mx.abs(array).max().item():.4g}."
            )
    with write_aside(Path(path), bytes_of(cast)) as aside:
        write_arrays(aside, cast)


def save_quantized(path: Path, arrays: Mapping[str, mx.array], bits: int) -> None:
    """Export weights as one safetensors file, matrices in few bits.

    A matrix whose rows are no multiple of ``GROUP``, and every vector, stays as it is.

    Args:
        path: The file to write, atomically.
        arrays: Named float32 arrays; a matrix is a ``weight`` of 2 or more axes, its
            last axis the row that is cut into groups.
        bits: 8 or 4.
    """
    packed: Arrays = {}
    for name, array in arrays.items():
        if array.ndim < 2 or not name.endswith(_MATRIX) or array.shape[-1] % GROUP:
            packed[name] = array
            continue
        layer = name.removesuffix(_MATRIX)
        parts = mx.quantize(array, group_size=GROUP, bits=bits)
        for suffix, part in zip((_MATRIX, _SCALES, _OFFSETS), parts, strict=True):
            packed[layer + suffix] = part
    with write_aside(Path(path), bytes_of(packed)) as aside:
        write_arrays(aside, packed)


def save_as(path: Path, arrays: Mapping[str, mx.array], dtype: str) -> None:
    """Export weights as one safetensors file in any of ``dtypes.DTYPES``.

    Args:
        path: The file to write, atomically.
        arrays: Named float32 arrays.
        dtype: One of ``dtypes.DTYPES``.

    Raises:
        InputError: ``dtype`` is none of them, or a finite value overflows it.
    """
    require_dtype(dtype)
    if dtype in BITS:
        save_quantized(path, arrays, BITS[dtype])
    else:
        save_weights(path, arrays, getattr(mx, dtype))


def load_weights(path: Path) -> Arrays:
    """Read a safetensors file of weights at once, evaluated, as it lies there.

    Raises:
        InputError: The file is missing or no safetensors file.
    """
    return _load(Path(path))


def load_full(path: Path) -> Arrays:
    """Read exported weights in whatever precision they lie there, as float32.

    Raises:
        InputError: The file is missing, no safetensors file, or a matrix in few bits
            lacks its scales or offsets.
    """
    stored = load_weights(path)
    full: Arrays = {}
    for name, array in stored.items():
        layer = name.removesuffix(_MATRIX)
        if name.endswith((_SCALES, _OFFSETS)):
            continue
        if array.dtype != mx.uint32 or layer == name:
            is_float = mx.issubdtype(array.dtype, mx.floating)
            full[name] = array.astype(mx.float32) if is_float else array
            continue
        scales, offsets = stored.get(layer + _SCALES), stored.get(layer + _OFFSETS)
        if scales is None or offsets is None:
            raise InputError(f"[weights] {path}: '{name}' must come with its scales.")
        full[name] = _widen(array, scales, offsets, f"{path}: '{name}'")
    mx.eval(full)
    return full


def _widen(packed: mx.array, scales: mx.array, offsets: mx.array, at: str) -> mx.array:
    """A matrix in few bits as float32; how few, its shape and its scales' say."""
    words, groups = packed.shape[-1:], scales.shape[-1:]
    bits, rest = divmod(32 * sum(words), max(1, GROUP * sum(groups)))
    is_whole = packed.shape[:-1] == scales.shape[:-1] and packed.ndim >= 2
    is_float = all(mx.issubdtype(a.dtype, mx.floating) for a in (scales, offsets))
    if (
        not (is_whole and is_float and scales.dtype == offsets.dtype)
        or rest
        or bits not in BITS.values()
        or offsets.shape != scales.shape
    ):
        raise InputError(
            f"[weights] {at} must have {GROUP} weights a scale, got "
            f"{list(packed.shape)} words and {list(scales.shape)} scales."
        )
    return mx.dequantize(packed, scales, offsets, group_size=GROUP, bits=bits)


def bytes_of(arrays: Mapping[str, mx.array]) -> int:
    """Bytes of a file of these arrays, a little more at most."""
    return sum(_ENTRY_BYTES + array.nbytes for array in arrays.values())


def grouped(arrays: Mapping[str, mx.array]) -> dict[str, Arrays]:
    """Arrays of a checkpoint by the group that each name begins with.

    Raises:
        ValueError: A name has no group, or two groups are the same but for letter case.
        TypeError: A value is no ``mx.array``.
    """
    groups: dict[str, Arrays] = {}
    for name, array in arrays.items():
        group = name.partition(".")[0]
        if not _GROUP.fullmatch(group):
            raise ValueError(
                "[checkpoint] array names must start with a group of letters, digits, "
                f"'_' or '-' before the first dot, got '{name}'."
            )
        if not isinstance(array, mx.array):
            raise TypeError(
                f"[checkpoint] '{name}' must be an mx.array, got "
                f"{type(array).__name__}."
            )
        groups.setdefault(group, {})[name] = array
    if len({group.lower() for group in groups}) != len(groups):
        raise ValueError(
            "[checkpoint] groups must differ by more than letter case, got "
            f"{', '.join(sorted(groups))}."
        )
    return groups


def write_arrays(path: Path, arrays: Arrays) -> dict[str, Any]:
    """Write and flush one payload; returns its header entry.

    Through Python's file: MLX's own says nothing of why it cannot write.
    """
    with path.open("wb") as file:
        mx.save_safetensors(file, arrays, {"format": "mlx"})
    flush(path)
    size = path.stat().st_size
    described = {name: describe(array) for name, array in arrays.items()}
    return {"bytes": size, "sha256": sha256_of(path), "arrays": described}


def read_arrays(path: Path, entry: dict[str, Any]) -> Arrays:
    """Read one payload back against its header entry; evaluated.

    Raises:
        InputError: Size, digest, names, shapes or dtypes are not those of ``entry``.
    """
    size = require_file(path, "weights")
    if size != entry["bytes"]:
        raise InputError(
            f"[weights] {path}: must be {entry['bytes']} bytes, got {size}."
        )
    shapes = check_safetensors(path, "weights")
    if {name: list(shape) for name, shape in shapes.items()} != _shapes_in(entry):
        raise InputError(
            f"[weights] {path}: must hold the arrays that its header entry names."
        )
    digest = sha256_of(path)
    if digest != entry["sha256"]:
        raise InputError(
            f"[weights] {path}: must have sha256 {entry['sha256'][:12]}..., got "
            f"{digest[:12]}...: the file was changed after it was written."
        )
    arrays = _load(path)
    described = {name: describe(array) for name, array in arrays.items()}
    if described != entry["arrays"]:
        raise InputError(
            f"[weights] {path}: must hold the arrays that its header entry names."
        )
    return arrays


def _shapes_in(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: array.get("shape") for name, array in entry["arrays"].items()}


def _load(path: Path) -> Arrays:
    """Arrays of a safetensors file, evaluated: later changes to it cannot reach them.

    MLX reads on a thread of its own. It is given the path, never a Python file object:
    a thread that still holds one when the interpreter ends aborts the process.
    """
    check_safetensors(path, "weights")
    try:
        arrays = mx.load(str(path), format="safetensors")
        mx.eval(arrays)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"[weights] {path}: must be a safetensors file, got: {error}."
        ) from error
    assert isinstance(arrays, dict)
    return arrays


def describe(array: mx.array) -> dict[str, Any]:
    """Describe an array as JSON: its shape and dtype name."""
    name = str(array.dtype).removeprefix("mlx.core.")
    return {"shape": list(array.shape), "dtype": name}

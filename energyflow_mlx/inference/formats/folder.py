"""The folder in which a model travels: weights, settings, tokenizer, model card.

    model.safetensors    every weight by its path, in one of ``runs.dtypes.DTYPES``
    config.json          ``format``, version, vector size, parts, settings, record
    tokenizer.json       the source tokenizer, as Hugging Face ``tokenizers`` reads it
    student_vocab.json   how the student spells the source's pieces
    README.md            the model card

Nothing in it is pickled, and reading it instantiates nothing by name.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.build.model import PARTS, build_model
from energyflow_mlx.config import Config, config_from_json
from energyflow_mlx.config.data import TeacherConfig
from energyflow_mlx.data.files import require_output_folder
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import EnergyFlow, flat_parameters, install_parameters
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.dtypes import BITS
from energyflow_mlx.runs.record import Record
from energyflow_mlx.runs.weights import load_full, save_as
from energyflow_mlx.runtime import hub
from energyflow_mlx.runtime.atomic import folder_aside
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import built, read_object
from energyflow_mlx.text.tokenizer import Tokenizer

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
GRAPH = "model.onnx"
FORMAT, VERSION = "energyflow", 1
# Settings that are files or folders, one or a list of them.
_PATHS = (
    *("data.train", "data.val", "data.edits.of", "data.own_pairs.of"),
    *("teacher.train_vectors", "teacher.val_vectors", "trainer.sts", "init"),
    "objectives.paraphrase.file",
)
# What any format of ``export`` may have written; such a folder may be written again.
OURS = {
    *(WEIGHTS, CONFIG, CARD, "tokenizer.json", "student_vocab.json"),
    *(GRAPH, "modules.json", "energyflow_onnx.py"),
    *("config_sentence_transformers.json", ".gitattributes"),
}


@dataclass(frozen=True)
class Pretrained:
    """What a folder holds.

    Attributes:
        model: The network, its weights in float32.
        tokenizer: Text to ids and back.
        config: Settings it was built with.
        dimension: Size E of the vectors.
        record: What training did to the model.
    """

    model: EnergyFlow
    tokenizer: Tokenizer
    config: Config
    dimension: int
    record: Record = field(default_factory=Record)


@dataclass(frozen=True)
class Header:
    """``config.json`` of the folder.

    Attributes:
        dimension: Size E of the vectors.
        dtype: Precision of the weights.
        parts: Top-level parts of the model.
        config: The run's settings, without paths of the machine it was trained on.
        record: What training did to the model, see ``runs.record``.
        format: Always ``energyflow``.
        version: Of the format.
    """

    dimension: int
    dtype: str
    parts: list[str]
    config: dict[str, Any]
    record: dict[str, Any]
    format: str = FORMAT
    version: int = VERSION


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is one of these, and no run folder."""
    return (folder / WEIGHTS).is_file()


def new_folder(path: Path) -> AbstractContextManager[Path]:
    """Open a folder aside that takes the place of ``path`` when all is written.

    Raises:
        InputError: ``path`` is a file, or holds files that no export has written.
    """
    require_output_folder(str(path))
    foreign = {file.name for file in path.iterdir()} - OURS if path.is_dir() else set()
    if foreign:
        raise InputError(
            f"[export] output {path} must be new, empty or hold an earlier export "
            f"alone, got {min(foreign)} in it."
        )
    return folder_aside(path)


def write_model(folder: Path, source: Pretrained, dtype: str) -> None:
    """Write weights, settings and tokenizer into a folder.

    Args:
        folder: An empty folder.
        source: What is written.
        dtype: One of ``runs.dtypes.DTYPES``.

    Raises:
        InputError: A weight overflows ``dtype``.
    """
    weights = flat_parameters(source.model)
    parts = sorted({name.partition(".")[0] for name in weights})
    require_measured(parts, dtype)
    save_as(folder / WEIGHTS, weights, dtype)
    config = without_paths(source.config).to_json()
    record = source.record.to_json()
    header = Header(source.dimension, dtype, parts, config, record)
    write_json(folder / CONFIG, asdict(header))
    source.tokenizer.save(folder)


def require_measured(parts: Collection[str], dtype: str) -> None:
    """Refuse few bits for parts whose loss by them was never measured.

    Args:
        parts: Top-level parts of a model.
        dtype: One of ``runs.dtypes.DTYPES``.

    Raises:
        InputError: There is a part beside encoder, decoder and what they share.
    """
    others = set(parts) - {"encoder", "decoder", "shared"}
    if dtype in BITS and others:
        raise InputError(
            f"[export] dtype must be float32, float16 or bfloat16 for a model with "
            f"{', '.join(sorted(others))}, got {dtype}."
        )


def write_json(path: Path, values: Mapping[str, Any] | list[Any]) -> None:
    """Write a file of settings."""
    text = json_text(values, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def without_paths(config: Config) -> Config:
    """Settings in which paths of one machine are reduced to their last names."""
    shared = deepcopy(config)
    shared.run.dir = Config().run.dir
    shared.teacher.cache_dir = TeacherConfig().cache_dir
    shared.teacher.name = teacher_name(config)
    for key in _PATHS:
        *groups, name = key.split(".")
        holder = reduce(getattr, groups, shared)
        given = getattr(holder, name, None)  # an objective may not be there
        if isinstance(given, str):
            setattr(holder, name, Path(given).name)
        elif given:
            setattr(holder, name, [Path(path).name for path in given])
    return shared


def teacher_name(config: Config) -> str:
    """The teacher's name, that of a folder without the path to it."""
    name = config.teacher.name
    is_path = Path(name).expanduser().is_dir() or not hub.is_hub_id(name)
    return Path(name).name if is_path else name


def open_folder(path: Path) -> Pretrained:
    """Read what ``write_model`` wrote.

    Raises:
        InputError: A file is missing or damaged, or of another format.
    """
    header = _read_header(path / CONFIG)
    config = config_from_json(header.config)
    tokenizer = Tokenizer.load(path)
    weights = load_full(path / WEIGHTS)
    record = Record.from_json(header.record, trained=())
    found = build_pretrained(
        config, tokenizer, weights, header.dimension, str(path / WEIGHTS)
    )
    return replace(found, record=record)


def build_pretrained(
    config: Config,
    tokenizer: Tokenizer,
    weights: dict[str, mx.array],
    dimension: int,
    where: str,
) -> Pretrained:
    """A model with the parts whose weights there are.

    Args:
        config: The run's settings.
        tokenizer: The run's tokenizer.
        weights: Float32 arrays by path.
        dimension: Size E of the vectors.
        where: Where the weights come from, for messages.

    Raises:
        InputError: Weights and settings do not fit.
    """
    parts = {name.partition(".")[0] for name in weights}
    if unknown := parts - PARTS:
        raise InputError(
            f"[load] {where} must hold a model's weights, got {min(unknown)}."
        )
    _require_sizes(config, parts, weights, dimension, where)
    try:
        model = build_model(config, parts, tokenizer.vocab_size, dimension)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"[load] {where}: its settings build no model: {error}."
        ) from error
    require_match(flat_parameters(model), weights, where)
    require_finite(weights, where)
    install_parameters(model, weights)
    return Pretrained(model, tokenizer, config, dimension)


def _require_sizes(
    config: Config,
    parts: set[str],
    weights: Mapping[str, mx.array],
    dimension: int,
    where: str,
) -> None:
    """Refuse sizes that no array of the weights has, before anything is built."""
    sides = {side for array in weights.values() for side in array.shape}
    if not config.data.buckets:
        raise InputError(f"[load] {where}: data.buckets of its settings must be set.")
    wanted = {"dimension": dimension}
    for part in parts & {"encoder", "decoder"}:
        group = getattr(config, part)
        names = {"dim", "hidden", "max_positions"} & vars(group).keys()
        wanted |= {f"{part}.{name}": getattr(group, name) for name in sorted(names)}
    for name, size in wanted.items():
        if size not in sides:
            raise InputError(
                f"[load] {where}: must hold an array with a side of {name} = {size}, "
                "got none."
            )
    # Computed rather than drawn, and so at once.
    positions = weights.get("encoder.positions")
    rows = getattr(config.encoder, "max_positions", None)
    if rows and positions is not None and positions.shape != (rows, config.encoder.dim):
        raise InputError(
            f"[load] {where}: 'encoder.positions' must be "
            f"{[rows, config.encoder.dim]}, got {list(positions.shape)}."
        )
    if bool(config.shared_blocks) != ("shared" in parts) and {"encoder"} & parts:
        raise InputError(
            f"[load] {where}: must hold {config.shared_blocks} shared blocks by its "
            f"settings, got {'some' if 'shared' in parts else 'none'}."
        )


def require_finite(weights: Mapping[str, mx.array], where: str) -> None:
    """Refuse weights that no training leaves behind.

    Raises:
        InputError: A number is NaN or infinite; names the array.
    """
    for name, array in weights.items():
        if not mx.isfinite(array).all().item():
            raise InputError(f"[load] {where}: {name!r} must be finite.")


def find_folder(path_or_id: str | Path) -> Path:
    """Folder of a model: the one named, or the hub's.

    Raises:
        InputError: There is no such folder, or the hub does not supply it.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir() or not hub.is_hub_id(str(path_or_id)):
        return folder
    return hub.fetch(str(path_or_id), sorted(OURS))


def _read_header(path: Path) -> Header:
    values = read_object(path, "load")
    found = {k: values.get(k) for k in ("format", "version")}
    if found != {"format": FORMAT, "version": VERSION}:
        raise InputError(
            f"[load] {path}: must have format {FORMAT}, version {VERSION}, got "
            f"{str(found['format'])[:40]}, {str(found['version'])[:40]}."
        )
    return built(Header, values, f"[load] {path}")

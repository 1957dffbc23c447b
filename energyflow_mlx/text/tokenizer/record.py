"""The student's vocabulary as it lies in a folder: signed, and checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import MIB, built, read_object
from energyflow_mlx.text.tokenizer.vocabulary import SPECIALS

SOURCE_FILE = "tokenizer.json"
STUDENT_FILE = "student_vocab.json"
VERSION = 1
_MOST_BYTES = 32 * MIB

Kind = Literal["wordpiece", "bpe"]


@dataclass(frozen=True)
class _Stored:
    """``student_vocab.json``; the members are those of ``Tokenizer``."""

    version: int
    kind: Kind
    source_sha256: str
    tokens: list[str]
    source_ids: list[int]


def read_record(path: Path) -> dict[str, Any]:
    """Read a student vocabulary whose digest agrees.

    Raises:
        InputError: It is missing, damaged, of another version or of another form.
    """
    record = read_object(path, "tokenizer", _MOST_BYTES)
    fingerprint, version = record.pop("fingerprint", None), record.get("version")
    if version != VERSION:
        raise InputError(
            f"[tokenizer] {path}: version must be {VERSION}, got {str(version)[:40]}."
        )
    if digest_of(record) != fingerprint:
        raise InputError(f"[tokenizer] {path}: damaged, its digest does not agree.")
    built(_Stored, record, f"[tokenizer] {path}")
    return record


def require_vocabulary(
    record: dict[str, Any], pieces: Sequence[str], path: Path
) -> None:
    """Refuse a signed vocabulary that could not have been made of the source.

    Args:
        record: The vocabulary, of the right form.
        pieces: The source vocabulary by id.
        path: Where the record is from, for messages.

    Raises:
        InputError: Special tokens are missing, a token is there twice, or an id is
            outside the source.
    """
    tokens, ids = record["tokens"], record["source_ids"]
    missing = set(SPECIALS) - set(pieces)
    if missing or tuple(tokens[: len(SPECIALS)]) != SPECIALS:
        raise InputError(
            f"[tokenizer] {path}: {SOURCE_FILE} and the tokens must have "
            f"{' '.join(SPECIALS)}, and the tokens begin with them."
        )
    if not len(set(tokens)) == len(tokens) == len(ids):
        raise InputError(
            f"[tokenizer] {path}: must have as many source_ids as different tokens, "
            f"got {len(ids)} and {len(set(tokens))} of {len(tokens)}."
        )
    if not 0 <= min(ids) <= max(ids) < len(pieces):
        raise InputError(
            f"[tokenizer] {path}: source_ids must be in [0, {len(pieces)}), got "
            f"{min(ids)} to {max(ids)}."
        )
    if record["kind"] == "bpe" and tokens != list(pieces):
        raise InputError(
            f"[tokenizer] {path}: tokens of kind bpe must be those of {SOURCE_FILE}."
        )


def digest_of(record: dict[str, Any]) -> str:
    """sha256 of a record, whatever the order of its keys."""
    return sha256_of_text(json.dumps(record, sort_keys=True, allow_nan=False))


def sha256_of_text(text: str) -> str:
    """sha256 of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()

"""JSON objects that carry the sha256 of what they say, so that a changed bit is seen.

The digest stands under ``sha256`` behind the other keys, and is that of their canonical
form: sorted keys, no white space. Files without one, of earlier versions, are read too;
a last key whose value looks like a digest is ``sha256`` with a changed bit.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import read_object

DIGEST = "sha256"
_HEXADECIMAL = re.compile("[0-9a-f]{64}")


def digest_of(values: Mapping[str, Any]) -> str:
    """Digest of an object's canonical form, in hexadecimal.

    Args:
        values: JSON values, without a digest.
    """
    canonical = json.dumps(
        values, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its digest, as it comes back from JSON; paths become text."""
    plain: dict[str, Any] = json.loads(json_text(values, default=str))
    return plain | {DIGEST: digest_of(plain)}


def write_signed(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object and its digest atomically."""
    text = json_text(signed(values), indent=1)
    write_text(path, text + "\n")


def read_signed(path: Path) -> dict[str, Any]:
    """Read an object; its digest, where it has one, is checked and left out.

    Raises:
        InputError: There is no such file, it holds no JSON object, or was changed
            after it was written.
    """
    values = read_object(path, "files")
    last = str(values[next(reversed(values))]) if values else ""
    is_signed = DIGEST in values or _HEXADECIMAL.fullmatch(last)
    if is_signed and values.pop(DIGEST, None) != digest_of(values):
        raise InputError(
            f"[files] {path} must match its own {DIGEST}: the file was changed after "
            f"it was written; who edits it takes the line {DIGEST} out."
        )
    return values

"""JSON Lines: one object a line with a text, a vector, token ids, or several of these.

    {"text": ..., "target": [E numbers], "input_ids": [L], "attention_mask": [L],
     "pair_target": ...}

``input_ids`` and ``attention_mask`` come together. ``pair_target`` is the second
sentence of a packed premise-hypothesis export. Other keys are ignored, blank lines
skipped; any other flaw is an error that names its line.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.vectors import require_targets
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_aside
from energyflow_mlx.runtime.received import MIB, finite

_MAX_ID = 2**31 - 1
_MOST_RECORD = 4 * MIB  # parsed it takes some thirty times as much


class Records(NamedTuple):
    """A JSONL file's columns; one that not every record has is ``None``.

    Attributes:
        texts: Sentences.
        ids: Token ids without padding, rows of int32.
        targets: Vectors, ``[N, E]`` float32; all records have one, or none has.
        pair_texts: The other sentence of each pair.
    """

    texts: list[str] | None
    ids: list[np.ndarray] | None
    targets: np.ndarray | None
    pair_texts: list[str] | None


class Record(NamedTuple):
    """One line of a file; what it does not have is ``None``.

    Attributes:
        text: The sentence.
        ids: Token ids without padding, ``[L]`` int32.
        target: The vector, ``[E]`` float32.
        pair_text: The other sentence of the pair.
    """

    text: str | None
    ids: np.ndarray | None
    target: np.ndarray | None
    pair_text: str | None


def read_jsonl(path: Path, *, text_key: str = "text") -> Records:
    """Read a whole file and check every record.

    Args:
        path: A UTF-8 file, possibly ``.gz``.
        text_key: The key that holds the sentence.

    Raises:
        InputError: Naming the file, the line, what was expected and what came.
    """
    numbered = list(read_records(path, text_key=text_key))
    if not numbered:
        raise InputError(f"[jsonl] {path}: expected records, got an empty file.")
    lines, records = zip(*numbered, strict=True)
    columns = [
        list(column) if all(item is not None for item in column) else None
        for column in zip(*records, strict=True)
    ]
    texts, ids, targets, pair_texts = columns
    stacked = None if targets is None else np.stack(targets)
    if stacked is not None:
        require_targets(stacked, lambda row: f"{path}: line {lines[row]}: target")
    return Records(texts, ids, stacked, pair_texts)


def read_records(path: Path, *, text_key: str = "text") -> Iterator[tuple[int, Record]]:
    """Records of a file of any size with the numbers of their lines, each checked.

    Arguments and errors as for ``read_jsonl``.
    """
    first: Record | None = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = _parse(line, text_key)
            first = first or record
            _check_like_first(record, first)
        except _BadRecord as error:
            raise InputError(f"[jsonl] {path}: line {number}: {error}.") from error
        yield number, record


def write_jsonl(
    path: Path,
    *,
    texts: Sequence[str] | None = None,
    ids: Sequence[np.ndarray] | None = None,
    targets: np.ndarray | None = None,
    pair_texts: Sequence[str] | None = None,
) -> None:
    """Write columns of equal length; the file appears whole or not at all.

    Float32 values come back exactly. Non-ASCII text is written as it is.
    """
    columns = (texts, ids, targets, pair_texts)
    if all(column is None for column in columns):
        raise ValueError("[jsonl] at least one column must be given.")
    count = max(len(column) for column in columns if column is not None)
    filled = [repeat(None, count) if c is None else c for c in columns]
    with write_aside(Path(path)) as aside, aside.open("wb") as file:
        for text, row, target, pair_text in zip(*filled, strict=True):
            record: dict[str, Any] = {}
            if text is not None:
                record["text"] = text
            if row is not None:
                record["input_ids"] = np.asarray(row).tolist()
                record["attention_mask"] = [1] * len(row)
            if target is not None:
                record["target"] = np.asarray(target, np.float32).tolist()
            if pair_text is not None:
                record["pair_target"] = pair_text
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            file.write(line.encode() + b"\n")


class _BadRecord(ValueError):
    """What is wrong with one line, before the line number is known."""


def _parse(line: str, text_key: str) -> Record:
    if len(line) > _MOST_RECORD:
        raise _BadRecord(f"expected at most {_MOST_RECORD} characters, got {len(line)}")
    try:
        record = json.loads(line, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise _BadRecord(f"expected a JSON object, got bad JSON ({error})") from error
    if not isinstance(record, dict):
        raise _BadRecord(f"expected a JSON object, got {type(record).__name__}")
    return Record(
        _parse_text(record, text_key),
        _parse_tokens(record),
        _parse_target(record["target"]) if "target" in record else None,
        _parse_text(record, "pair_target"),
    )


def _parse_text(record: dict[str, Any], key: str) -> str | None:
    text = record.get(key)
    if text is None:
        return None
    if not isinstance(text, str):
        raise _BadRecord(f"{key} must be a string, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRecord(f"{key} must be UTF-8 text, got half a surrogate") from error
    # An empty text counts as absent.
    return text.strip() or None


def _parse_target(values: Any) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise _BadRecord("target must be a list of numbers")
    if any(isinstance(v, bool) or not isinstance(v, int | float | str) for v in values):
        raise _BadRecord("target must be a list of numbers")
    try:
        # Numbers written as strings are numbers: reference exports have them.
        with np.errstate(over="ignore"):
            target = np.asarray([float(v) for v in values]).astype(np.float32)
    except (ValueError, OverflowError) as error:
        raise _BadRecord(f"target must be a list of numbers ({error})") from error
    if not np.isfinite(target).all():
        place = int(np.flatnonzero(~np.isfinite(target))[0])
        raise _BadRecord(f"target must be finite, got {values[place]} at {place}")
    return target


def _parse_tokens(record: dict[str, Any]) -> np.ndarray | None:
    keys = [key for key in ("input_ids", "attention_mask") if key in record]
    if not keys:
        return None
    if len(keys) == 1:
        raise _BadRecord(f"expected input_ids and attention_mask, got only {keys[0]}")
    ids, mask = record["input_ids"], record["attention_mask"]
    if not _is_list_of_int(ids, _MAX_ID) or not ids:
        raise _BadRecord(f"input_ids must be a list of integers 0..{_MAX_ID}")
    if not _is_list_of_int(mask, 1):
        raise _BadRecord("attention_mask must be a list of 0 and 1")
    if len(ids) != len(mask):
        raise _BadRecord(
            f"attention_mask must be as long as input_ids = {len(ids)}, got {len(mask)}"
        )
    return np.asarray(ids, np.int32)[np.asarray(mask) == 1]


def _is_list_of_int(values: Any, largest: int) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= largest for value in values
    )


def _check_like_first(record: Record, first: Record) -> None:
    if (record.target is None) != (first.target is None):
        has = "a" if record.target is not None else "no"
        raise _BadRecord(f"expected a target in every record or in none, got {has} one")
    if record.target is None or first.target is None:
        return
    if len(record.target) != len(first.target):
        raise _BadRecord(
            f"target must have {len(first.target)} numbers like the first record, "
            f"got {len(record.target)}"
        )

"""Texts from the files people have: .txt, .jsonl, .csv, or a folder of .txt files."""

import csv
from collections.abc import Iterator
from pathlib import Path

from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.jsonl import read_jsonl
from energyflow_mlx.errors import InputError


def read_text_lines(path: Path) -> list[str]:
    """One sentence a line, stripped; blank lines are skipped.

    Raises:
        InputError: The file is missing, empty or not UTF-8.
    """
    texts = [text for _, line in read_lines(path) if (text := line.strip())]
    if not texts:
        raise InputError(f"[data] {path}: expected sentences, got an empty file.")
    return texts


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts of one file, or of a folder with one text in each ``.txt`` file.

    Args:
        path: ``.txt``, ``.txt.gz``, ``.jsonl``, ``.jsonl.gz``, ``.csv`` or a folder.
        column: Where a text stands in a JSON record or a CSV row.

    Raises:
        InputError: Nothing can be read from it; the message names file and line.
    """
    if path.is_dir():
        return _read_folder(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".txt"):
        return read_text_lines(path)
    if name.endswith(".jsonl"):
        texts = read_jsonl(path, text_key=column).texts
        if texts is None:
            raise InputError(f"[data] {path}: every record must have {column!r}.")
        return texts
    if name.endswith(".csv"):
        return _read_csv(path, column)
    raise InputError(
        f"[data] {path}: expected .txt, .txt.gz, .jsonl, .csv or a folder of .txt "
        f"files, got {path.suffix or 'no suffix'!r}."
    )


def _read_folder(folder: Path) -> list[str]:
    texts = []
    for path in sorted(folder.glob("*.txt")):
        text = " ".join(" ".join(line.split()) for _, line in read_lines(path))
        if text.strip():
            texts.append(text.strip())
    if not texts:
        raise InputError(f"[data] {folder}: expected .txt files with text, got none.")
    return texts


def _read_csv(path: Path, column: str) -> list[str]:
    reader = csv.reader(_lines_with_ends(path), strict=True)
    texts: list[str] = []
    try:
        header = next(reader, [])
        if column not in header:
            names = ", ".join(header) or "none"
            raise InputError(
                f"[data] {path}: line 1: expected the column {column!r}, got {names}."
            )
        place = header.index(column)
        for row in reader:
            if row and len(row) != len(header):
                raise InputError(
                    f"[data] {path}: line {reader.line_num}: expected {len(header)} "
                    f"columns, got {len(row)}."
                )
            text = " ".join(row[place].split()) if row else ""
            texts += [text] if text else []
    except csv.Error as error:
        raise InputError(
            f"[data] {path}: line {reader.line_num}: bad CSV: {error}."
        ) from error
    if not texts:
        raise InputError(f"[data] {path}: expected sentences, got an empty column.")
    return texts


def _lines_with_ends(path: Path) -> Iterator[str]:
    for _, line in read_lines(path):
        yield line + "\n"

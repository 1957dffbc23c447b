"""Texts from the files people have: lines, JSON Lines, tables, EFB files, folders.

The one place that knows which suffix means what. Training reads a file by it, and so
does every command that takes sentences.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from energyflow_mlx.data.efb import EFBReader
from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.jsonl import read_records
from energyflow_mlx.errors import InputError

# Kinds of files, as ``data.format`` names them. The first three may end in .gz too.
SUFFIXES = {
    "text": (".txt", ".txt.gz"),
    "jsonl": (".jsonl", ".jsonl.gz"),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "efb": (".efb",),
    "npy": (".npy",),
}
FOLDER = "folder"


def kind_of(path: Path) -> str:
    """What a path holds: a key of ``SUFFIXES``, or ``FOLDER``.

    Raises:
        InputError: Its suffix says nothing.
    """
    if path.is_dir():
        return FOLDER
    for kind, suffixes in SUFFIXES.items():
        if path.name.endswith(suffixes):
            return kind
    raise InputError(
        f"[data] {path}: expected .txt, .jsonl, .csv, .tsv (each also .gz), .efb, .npy "
        f"or a folder of .txt files, got {path.suffix or 'no suffix'!r}."
    )


def iter_texts(path: Path, column: str = "text") -> Iterator[str]:
    """Texts of a file of any size, one after another.

    A blank line of a ``.txt`` file, or an empty cell of a table, is an empty text, so
    that texts and rows keep their numbers.

    Args:
        path: Any path that ``kind_of`` knows, vectors alone apart.
        column: Where a text stands in a JSON record or in the row of a table.

    Raises:
        InputError: The file is missing, damaged or without texts; the message names
            file and line.
    """
    kind = kind_of(path)
    if kind == FOLDER:
        yield from _folder_texts(path)
    elif kind == "text":
        for _, line in read_lines(path):
            yield line
    elif kind == "jsonl":
        yield from _jsonl_texts(path, column)
    elif kind == "csv":
        yield from _table_texts(path, column)
    elif kind == "efb":
        yield from _efb_texts(path)
    else:
        raise InputError(f"[data] {path}: expected text, got vectors alone.")


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts of a file, or of a folder with one in each ``.txt`` file; none is blank.

    Arguments as for ``iter_texts``.

    Raises:
        InputError: Nothing can be read from it; the message names file and line.
    """
    texts = [text.strip() for text in iter_texts(path, column) if text.strip()]
    if not texts:
        raise InputError(f"[data] {path}: expected sentences, got none in it.")
    return texts


def _folder_texts(folder: Path) -> Iterator[str]:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise InputError(f"[data] {folder}: expected .txt files with text, got none.")
    for path in paths:
        yield " ".join(word for _, line in read_lines(path) for word in line.split())


def _jsonl_texts(path: Path, column: str) -> Iterator[str]:
    for number, record in read_records(path, text_key=column):
        if record.text is None:
            raise InputError(
                f"[jsonl] {path}: line {number}: expected a text under {column!r}, got "
                f"none; text_column names another key."
            )
        yield record.text


def _efb_texts(path: Path) -> Iterator[str]:
    reader = EFBReader(path)
    if not reader.has_text:
        raise InputError(f"[efb] {path}: expected text, got token ids alone.")
    yield from (reader.text(i) for i in range(len(reader)))


def _table_texts(path: Path, column: str) -> Iterator[str]:
    """Cells of one column; the first line names the columns.

    Commas may stand in quotes (RFC 4180); tab-separated values know no quotes.
    """
    is_tabbed = path.name.removesuffix(".gz").endswith(".tsv")
    lines = (line + "\n" for _, line in read_lines(path))
    if is_tabbed:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        place = _place_of(column, header, path)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"[data] {path}: line {reader.line_num}: expected {len(header)} "
                    f"columns, got {len(row)}."
                )
            yield " ".join(row[place].split())
    except csv.Error as error:
        raise InputError(
            f"[data] {path}: line {reader.line_num}: bad CSV: {error}."
        ) from error


def _place_of(column: str, header: list[str], path: Path) -> int:
    """Number of the column in the header; refuses a header that does not say."""
    count = header.count(column)
    if count != 1:
        names = ", ".join(header) or "none"
        got = f"{count} of that name in {names}" if count else names
        raise InputError(
            f"[data] {path}: line 1: expected a header with one column {column!r}, got "
            f"{got}; text_column names another."
        )
    return header.index(column)

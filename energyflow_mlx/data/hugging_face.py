"""Sentences of a column of a Hugging Face dataset, from the disk or from the hub.

The package ``datasets`` reads them; it is an extra, ``hf``.
"""

import importlib.util
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError

_PACKAGE = "datasets"
# What a dataset leaves in its folder when it is saved, and a group of splits.
_SAVED = ("state.json", "dataset_dict.json")


def read_column(
    name_or_path: str, column: str, *, split: str, subset: str | None = None
) -> list[str]:
    """Texts of one column, stripped; rows that are blank or missing are skipped.

    Args:
        name_or_path: A folder that ``save_to_disk`` wrote, a ``.parquet`` or ``.arrow``
            file, a folder of data files, or a name on the Hugging Face hub.
        column: Where the sentences are.
        split: Which part, where there are several.
        subset: Which configuration of a dataset that has several.

    Raises:
        InputError: The package is missing, or the dataset, split or column is not
            there or holds no text.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise InputError(
            f"[data] data.format=hf needs the package {_PACKAGE}: "
            f"pip install {_PACKAGE}"
        )
    dataset = _load(name_or_path, split, subset)
    if column not in dataset.column_names:
        raise InputError(
            f"[data] {name_or_path}: data.text_column must be one of "
            f"{', '.join(dataset.column_names)}, got {column!r}."
        )
    texts = []
    for number, text in enumerate(dataset[column]):
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"[data] {name_or_path}: row {number} of column {column!r} must be a "
                f"text, got {type(text).__name__}."
            )
        if text and text.strip():
            texts.append(text.strip())
    if not texts:
        raise InputError(f"[data] {name_or_path}: column {column!r} has no text.")
    return texts


def _load(name_or_path: str, split: str, subset: str | None) -> Any:
    """One split of a dataset, a ``datasets.Dataset``, wherever it is."""
    datasets = importlib.import_module(_PACKAGE)
    try:
        found = _open(datasets, name_or_path, split, subset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"[data] {name_or_path}: no dataset: {reason}") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise InputError(
                f"[data] {name_or_path}: the split must be one of "
                f"{', '.join(found)}, got {split!r}."
            )
        return found[split]
    return found


def _open(package: Any, name_or_path: str, split: str, subset: str | None) -> Any:
    path = Path(name_or_path).expanduser()
    if path.is_dir() and any((path / name).is_file() for name in _SAVED):
        return package.load_from_disk(str(path))
    if path.is_file() and path.suffix == ".arrow":
        return package.Dataset.from_file(str(path))
    if path.is_file() and path.suffix == ".parquet":
        return package.Dataset.from_parquet(str(path))
    if path.is_file():
        raise ValueError("a file must end in .parquet or .arrow.")
    # Folders of data files and names on the hub alike.
    return package.load_dataset(str(name_or_path), subset, split=split)

"""Sentences, vectors, or both as one record type, read from any supported file."""

from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from energyflow_mlx.data.distinct import number_distinct
from energyflow_mlx.data.efb import EFBReader, EFBWriter
from energyflow_mlx.data.efb_layout import efb_bytes
from energyflow_mlx.data.jsonl import read_jsonl
from energyflow_mlx.data.provenance import Provenance
from energyflow_mlx.data.sources import kind_of, read_texts
from energyflow_mlx.data.vectors import require_targets, targets_of
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.disk import require_space

NO_FILE = -1  # number of the file of a sentence that was made


@dataclass
class SentenceSet:
    """Sentences as text, as token ids, or both, with their vectors where known.

    Text and vectors stand in one record, so they cannot shift against each other.

    Attributes:
        texts: The sentences; ``None`` in token mode.
        ids: Token ids of the source vocabulary, without padding; ``None`` in text mode.
            Without texts and ids the set is vectors alone.
        targets: Vectors, ``[N, E]`` float32; ``None``: the teacher supplies them.
        pair_texts: The other sentence of each pair, where the file has them.
        files: Number of the file that each record comes from, ``[N]`` int32, where
            several were read; ``NO_FILE`` for those that were made.
    """

    texts: list[str] | None
    ids: list[np.ndarray] | None = None
    targets: np.ndarray | None = None
    pair_texts: list[str] | None = None
    files: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.texts is None and self.ids is None and self.targets is None:
            raise ValueError("[dataset] texts, ids or targets must be given.")
        count = len(self)
        for name in ("texts", "ids", "targets", "pair_texts", "files"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise ValueError(
                    f"[dataset] {name} must have {count} rows, got {len(column)}."
                )
        if self.targets is not None and self.targets.ndim != 2:
            raise ValueError(
                f"[dataset] targets must be [N, E], got {list(self.targets.shape)}."
            )

    def __len__(self) -> int:
        columns = (self.texts, self.ids, self.targets)
        return len(next(column for column in columns if column is not None))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "SentenceSet":
        """The records at ``indices``, in that order."""
        places = np.asarray(indices, np.int64)
        return SentenceSet(
            _choose(self.texts, places),
            _choose(self.ids, places),
            None if self.targets is None else self.targets[places],
            _choose(self.pair_texts, places),
            None if self.files is None else self.files[places],
        )

    def places_in(self, names: Sequence[str], wanted: Collection[str]) -> np.ndarray:
        """Places of the records that come from some of the files.

        Args:
            names: The files of this set, in order.
            wanted: Those that are meant; none = all records, made ones too.
        """
        if not wanted or self.files is None:  # of one file it can but name that
            return np.arange(len(self))
        numbers = [i for i, name in enumerate(names) if name in wanted]
        return np.flatnonzero(np.isin(self.files, numbers))


def read_sentences(path: Path, column: str = "text") -> SentenceSet:
    """Read any file that ``data.sources`` knows, with the vectors that it holds.

    Args:
        path: The file, or a folder of ``.txt`` files.
        column: Where a text stands in a JSON record or in the row of a table.

    Raises:
        InputError: Unknown suffix, or a missing, empty or damaged file; the message
            names the file and the line, row or byte.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "jsonl":
        return _read_jsonl(path, column)
    if kind == "efb":
        return _read_efb(path)
    if kind == "npy":
        return SentenceSet(None, targets=np.asarray(targets_of(path), np.float32))
    return SentenceSet(read_texts(path, column))


def read_many(paths: Sequence[Path], column: str = "text") -> SentenceSet:
    """Read several files as one set; arguments as for ``read_sentences``.

    All must have text or all token ids, all or none vectors, and these of one size.

    Raises:
        InputError: They do not fit together; the message names the file.
    """
    if not paths:
        raise InputError("[dataset] at least one file must be given, got none.")
    sets = [read_sentences(path, column) for path in paths]
    if len(sets) == 1:
        return sets[0]
    _check_alike(sets, paths)
    texts, ids = _join([s.texts for s in sets]), _join([s.ids for s in sets])
    alone = [s for s in sets if s.texts is None and s.ids is None]
    if texts is None and ids is None and len(alone) < len(sets):
        textless = next(p for s, p in zip(sets, paths, strict=True) if s.texts is None)
        raise InputError(
            f"[dataset] {textless}: has no text; expected text in every file, token "
            "ids in every file, or vectors alone in every file."
        )
    targets = [s.targets for s in sets if s.targets is not None]
    return SentenceSet(
        texts,
        ids,
        np.concatenate(targets) if targets else None,
        _join([s.pair_texts for s in sets]),
        file_numbers(sets),
    )


def write_efb(
    path: Path,
    sentences: SentenceSet,
    *,
    normalized: bool = False,
    provenance: Provenance | None = None,
) -> None:
    """Write sentences and their vectors as EFB2: text, tokens, whatever they have.

    Args:
        path: The file; it appears whole or not at all.
        sentences: With ``targets``.
        normalized: Mark the vectors as having length 1, which is checked.
        provenance: Note to lay beside the file.

    Raises:
        ValueError: Vectors are missing, not finite, or not of length 1 as promised.
        DiskError: The system refuses to write it, or there is no room; said at once.
    """
    if sentences.targets is None:
        raise ValueError("[dataset] targets must be given to write an EFB file.")
    has_text, has_tokens = sentences.texts is not None, sentences.ids is not None
    size = efb_bytes(sentences.targets.shape, sentences.texts, sentences.ids)
    require_space(path, [size])
    with EFBWriter(
        path,
        sentences.targets.shape[1],
        has_text=has_text,
        has_tokens=has_tokens,
        normalized=normalized,
        provenance=provenance,
    ) as writer:
        for i, target in enumerate(sentences.targets):
            text = sentences.texts[i] if sentences.texts is not None else None
            ids = sentences.ids[i] if sentences.ids is not None else None
            writer.add(target, text=text, ids=ids)


def split(
    sentences: SentenceSet, fraction: float, seed: int
) -> tuple[SentenceSet, SentenceSet]:
    """Split into training and validation by a seeded permutation.

    Validation gets ``max(1, floor(fraction * N))`` records, none for a fraction of 0.
    Equal sentences stay on one side, so validation is never seen in training; with
    duplicates it may therefore be slightly larger.

    Args:
        sentences: All records.
        fraction: Share of validation, in [0, 1).
        seed: Seed of the permutation.

    Returns:
        Training and validation, both in permuted order.

    Raises:
        ValueError: The fraction is out of range.
        InputError: Nothing is left to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"[dataset] fraction must be in [0, 1), got {fraction}.")
    count = len(sentences)
    wanted = max(1, int(count * fraction)) if fraction > 0 else 0
    order = permutation(count, seed)
    groups = _group_numbers(sentences)
    in_validation = np.zeros(count, bool)
    in_validation[order[:wanted]] = True
    in_validation = np.isin(groups, groups[in_validation])
    held_out = in_validation[order]
    if held_out.all():
        raise InputError(
            f"[dataset] there must be 2 different sentences or more, one to train on "
            f"and one to hold out, got {len(np.unique(groups))} in {count} lines; or "
            "give held-out ones with data.val=FILE."
        )
    return sentences.subset(order[~held_out]), sentences.subset(order[held_out])


def permutation(count: int, *seed: int) -> np.ndarray:
    """Seeded order of ``0..count-1`` that does not depend on NumPy's version.

    Sorting PCG64's doubles: their sequence is fixed, unlike that of ``shuffle``.
    """
    return np.argsort(drawn(count, *seed), kind="stable")


def drawn(count: int, *seed: int) -> np.ndarray:
    """What ``permutation`` sorts: numbers in [0, 1), ``[count]`` float64."""
    return np.random.Generator(np.random.PCG64(list(seed))).random(count)


def file_numbers(parts: Sequence[Sized]) -> np.ndarray:
    """Number of the part that each record of all parts comes from, ``[N]`` int32."""
    numbers = np.arange(len(parts), dtype=np.int32)
    return np.repeat(numbers, [len(part) for part in parts])


def _choose(column: list | None, places: np.ndarray) -> list | None:
    return None if column is None else [column[i] for i in places]


def _join(columns: list[list | None]) -> list | None:
    joined: list = []
    for column in columns:
        if column is None:
            return None
        joined.extend(column)
    return joined


def _group_numbers(sentences: SentenceSet) -> np.ndarray:
    """The same number for equal sentences, ``[N]``."""
    if sentences.texts is not None:
        return number_distinct(sentences.texts)
    rows = sentences.targets if sentences.ids is None else sentences.ids
    assert rows is not None
    return number_distinct(row.tobytes() for row in rows)


def _check_alike(sets: list[SentenceSet], paths: Sequence[Path]) -> None:
    first = sets[0]
    for other, path in zip(sets[1:], paths[1:], strict=True):
        if (first.targets is None) != (other.targets is None):
            raise InputError(
                f"[dataset] {path}: expected vectors in all files or in none; "
                f"{paths[0]} differs."
            )
        if first.targets is None or other.targets is None:
            continue
        if first.targets.shape[1] != other.targets.shape[1]:
            raise InputError(
                f"[dataset] {path}: expected vectors of size {first.targets.shape[1]} "
                f"like {paths[0]}, got {other.targets.shape[1]}."
            )


def _read_jsonl(path: Path, column: str) -> SentenceSet:
    records = read_jsonl(path, text_key=column)
    if records.texts is None and records.ids is None:
        raise InputError(
            f"[jsonl] {path}: expected text under {column!r} in every record, or "
            "tokens in every one; text_column names another key."
        )
    _check_rows(path, None, records.ids)
    return SentenceSet(*records)


def _read_efb(path: Path) -> SentenceSet:
    reader = EFBReader(path)
    if len(reader) == 0:
        raise InputError(f"[efb] {path}: expected samples, got an empty file.")
    texts = reader.texts() if reader.has_text else None
    rows = range(len(reader))
    ids = [reader.tokens(i) for i in rows] if reader.has_tokens else None
    _check_rows(path, texts, ids)
    require_targets(reader.targets, lambda row: f"{path}: vector of sample {row}")
    return SentenceSet(texts, ids, reader.targets)


def _check_rows(
    path: Path, texts: list[str] | None, ids: list[np.ndarray] | None
) -> None:
    for number, text in enumerate(texts or []):
        if not text.strip():
            raise InputError(f"[dataset] {path}: sample {number} has a blank text.")
    for number, row in enumerate(ids or []):
        if len(row) == 0:
            raise InputError(
                f"[dataset] {path}: sample {number} has no token with mask 1."
            )

"""Teacher vectors on disk, found again by content.

A cache entry is a folder named by a hash of the teacher's fingerprint and of the
texts: another teacher, truncation length, scaling, text or order is another entry.

    <cache_dir>/<key>/lock         held while the entry is being made; not to read it
    <cache_dir>/<key>/00000.shard  sha256 (32 bytes), then the float32 vectors of up to
                                   4,096 distinct texts; only while the entry grows
    <cache_dir>/<key>/vectors.npy  [N, E] float32, one row per text
    <cache_dir>/<key>/entry.json   written last: sizes and sha256 of vectors.npy

Every file appears whole or not at all, so a killed run goes on with the next shard. A
finished entry may lie on a disk that is only read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np

from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.vectors import new_matrix, require_taught
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import (
    TEMPORARY_PREFIX,
    sha256_of,
    write_aside,
    write_text,
)
from energyflow_mlx.runtime.disk import require_space, writing
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import read_bytes, read_object, require_file

SHARD_TEXTS = 4096
_VERSION = 1
_DIGEST_BYTES = 32
_VECTORS = "vectors.npy"
_ENTRY = "entry.json"
_LOCK = "lock"

Progress = Callable[[int, int], None]

log = logging.getLogger(__name__)


class SentenceEncoder(Protocol):
    """What the cache needs of a teacher."""

    name: str
    max_length: int
    normalized: bool

    @property
    def dimension(self) -> int:
        """Width E of a vector."""

    @property
    def fingerprint(self) -> str:
        """Everything but the texts that decides the vectors."""

    def encode(
        self, texts: Sequence[str], *, batch_size: int, progress: Progress | None
    ) -> np.ndarray:
        """Vectors of ``texts``, ``[N, E]`` float32."""


def cached_vectors(
    teacher: SentenceEncoder,
    texts: Sequence[str],
    cache_dir: Path,
    progress: Progress | None = None,
    *,
    batch_size: int,
) -> np.ndarray:
    """Vectors of ``texts``, computed at most once.

    Args:
        teacher: Computes what is missing, each distinct text once.
        texts: Sentences; their order is part of the key.
        cache_dir: Folder of all entries; made when missing.
        progress: Called with (distinct sentences done, distinct sentences in all)
            while an entry is being made; what an earlier run had finished counts.
        batch_size: Most sentences in one of the teacher's forward passes.

    Returns:
        ``[N, E]`` float32, memory-mapped and read-only.

    Raises:
        InputError: The teacher gave vectors of a wrong shape or that nothing can be
            learned from.
        DiskError: ``cache_dir`` cannot be written, or has no room for the vectors; said
            before the teacher begins.
    """
    if not texts:
        return np.zeros((0, teacher.dimension), np.float32)
    folder = Path(cache_dir) / _key(teacher, texts)
    shape = len(texts), teacher.dimension
    if _fault(folder, shape) is not None:
        with _locked(folder):
            if (fault := _fault(folder, shape)) is not None:
                _discard(folder, fault)
                _build(folder, teacher, texts, progress, batch_size)
    return np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)


def _key(teacher: SentenceEncoder, texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    identity = (_VERSION, teacher.fingerprint, teacher.max_length, teacher.normalized)
    for part in (json.dumps(identity, allow_nan=False), *texts):
        # A lone surrogate, legal in a str, must not stop the hash.
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<q", len(encoded)))
        digest.update(encoded)
    return digest.hexdigest()[:32]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time make an entry; a killed one's lock is released.

    A folder in which nothing was made goes away again, and the folders above it that
    were made for it.
    """
    missing = [place for place in folder.parents if not place.exists()]
    file = _lock(folder / _LOCK)
    try:
        yield
    finally:
        if [path.name for path in folder.iterdir()] == [_LOCK]:
            with suppress(OSError):  # another process has begun an entry
                (folder / _LOCK).unlink()
                for place in (folder, *missing):
                    place.rmdir()
        file.close()


def _lock(path: Path) -> TextIO:
    """The file of this name, locked; one that was removed meanwhile does not count."""
    with writing(path.parent):
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), ExitStack() as stack:
                file = stack.enter_context(open(path, "a", opener=_open_own))
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _open_own(path: str, flags: int) -> int:
    """Open a file that is no link or pipe somebody else has put there."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise InputError(
            f"[teacher] {path}: must be a file that can be locked: {error.strerror}."
        ) from error


def _fault(folder: Path, shape: tuple[int, int]) -> str | None:
    """Why an entry cannot be read, empty where there is none; ``None``: it can."""
    if not (folder / _ENTRY).is_file():
        return ""
    try:
        _check_entry(folder, *shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


def _discard(folder: Path, fault: str) -> None:
    """Take the mark of a finished entry from a damaged one, and say so."""
    if fault:
        log.warning("Cached teacher vectors rebuilt: %s: %s", folder, fault)
        with writing(folder / _ENTRY):
            (folder / _ENTRY).unlink()


def _check_entry(folder: Path, count: int, dimension: int) -> None:
    entry = read_object(folder / _ENTRY, "teacher")
    vectors = folder / _VECTORS
    if (size := require_file(vectors, "teacher")) != entry["bytes"]:
        raise ValueError(f"{_VECTORS} must have {entry['bytes']} bytes, got {size}")
    if sha256_of(vectors) != entry["sha256"]:
        raise ValueError(f"the sha256 of {_VECTORS} is not the recorded one")
    if (shape := [entry["rows"], entry["dimension"]]) != [count, dimension]:
        raise ValueError(f"the shape must be {[count, dimension]}, got {shape}")


def _build(
    folder: Path,
    teacher: SentenceEncoder,
    texts: Sequence[str],
    progress: Progress | None,
    batch_size: int,
) -> None:
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink()
    distinct, position = deduplicate(texts)
    report = progress or _silent
    wide = 4 * teacher.dimension
    at_once = [len(texts) * wide, len(distinct) * wide - _bytes_of_shards(folder)]
    require_space(folder, [max(0, size) for size in at_once])
    shards = []
    for start in range(0, len(distinct), SHARD_TEXTS):
        block = distinct[start : start + SHARD_TEXTS]
        shards.append(folder / f"{start // SHARD_TEXTS:05d}.shard")
        if _read_shard(shards[-1], len(block), teacher.dimension) is None:
            within = partial(_report_within, report, start, len(distinct))
            vectors = teacher.encode(block, batch_size=batch_size, progress=within)
            _check_vectors(vectors, block, teacher)
            _write_shard(shards[-1], vectors)
        report(start + len(block), len(distinct))
    _assemble(folder, teacher, shards, position)
    for path in shards:
        path.unlink()


def _silent(_done: int, _total: int) -> None:
    pass


def _report_within(
    report: Progress, start: int, total: int, done: int, _block: int
) -> None:
    report(start + done, total)


def _read_shard(path: Path, count: int, dimension: int) -> np.ndarray | None:
    """Read a finished shard; None when there is none or it is damaged."""
    if not path.is_file():
        return None
    data = read_bytes(path, "teacher")
    payload = memoryview(data)[_DIGEST_BYTES:]
    intact = hashlib.sha256(payload).digest() == data[:_DIGEST_BYTES]
    if not intact or len(payload) != count * dimension * 4:
        log.warning("Cached teacher vectors rebuilt: %s is damaged", path)
        return None
    return np.frombuffer(payload, np.float32).reshape(count, dimension)


def _bytes_of_shards(folder: Path) -> int:
    """Bytes of the shards that an earlier run has left."""
    return sum(shard.stat().st_size for shard in folder.glob("*.shard"))


def _write_shard(path: Path, vectors: np.ndarray) -> None:
    payload = np.ascontiguousarray(vectors, np.float32).tobytes()
    with write_aside(path, _DIGEST_BYTES + len(payload)) as aside:
        aside.write_bytes(hashlib.sha256(payload).digest() + payload)


def _check_vectors(
    vectors: np.ndarray, block: Sequence[str], teacher: SentenceEncoder
) -> None:
    if vectors.shape != (len(block), teacher.dimension):
        raise InputError(
            f"[teacher] {teacher.name} must give vectors "
            f"{[len(block), teacher.dimension]}, got {list(vectors.shape)}."
        )
    require_taught(vectors, teacher.name, block)


def _assemble(
    folder: Path,
    teacher: SentenceEncoder,
    shards: Sequence[Path],
    position: np.ndarray,
) -> None:
    """Join the shards into one row per text, and sign the result."""
    vectors = folder / _VECTORS
    shape = (len(position), teacher.dimension)
    with new_matrix(vectors, shape) as write:
        shard_of, row_of = np.divmod(position, SHARD_TEXTS)
        for index, shard in enumerate(shards):
            members = np.flatnonzero(shard_of == index)
            stored = np.frombuffer(shard.read_bytes()[_DIGEST_BYTES:], np.float32)
            write(members, stored.reshape(-1, shape[1])[row_of[members]])
    entry = {
        "version": _VERSION,
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "max_length": teacher.max_length,
        "normalized": teacher.normalized,
        "rows": shape[0],
        "dimension": shape[1],
        "bytes": vectors.stat().st_size,
        "sha256": sha256_of(vectors),
    }
    write_text(folder / _ENTRY, json_text(entry, indent=1) + "\n")

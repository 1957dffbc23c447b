"""Reader and writer of EFB files: sentences (text or token ids) and their vectors.

The byte layout is in ``efb_layout``. Rows may be stored padded: the real ids are
those with mask 1. Beside ``X.efb`` may lie ``X.efb.json``, see ``provenance``.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from energyflow_mlx.data.efb_layout import (
    HAS_TEXT,
    HAS_TOKENS,
    HEADER_BYTES,
    MAX_ID,
    NORMALIZED,
    U32,
    build_index,
    efb_error,
    ranges,
    read_header,
    windows,
)
from energyflow_mlx.data.provenance import (
    Provenance,
    read_provenance,
    sidecar_path,
    write_provenance,
)
from energyflow_mlx.errors import EFBError
from energyflow_mlx.runtime.atomic import sha256_of, write_aside
from energyflow_mlx.runtime.received import require_file

# Rows checked or copied at a time, so that memory stays bounded.
_CHUNK = 16_384
# How far from 1 the length of a vector may be that is said to have length 1.
_UNIT_TOLERANCE = 1e-3


class EFBReader:
    """A memory-mapped EFB file, checked whole when opened, decoded on demand.

    Attributes:
        path: The file.
        version: 1 or 2.
        embedding_dim: E, the width of the vectors.
        has_tokens: Whether samples carry token ids.
        has_text: Whether samples carry text.
        normalized: Whether the header promises vectors of length 1.
    """

    def __init__(self, path: Path) -> None:
        """Map the file, index its samples and check every value once.

        Raises:
            InputError: The file is missing.
            EFBError: It is damaged; the message names the byte offset.
        """
        self.path = Path(path)
        size = require_file(self.path, "efb")
        # An empty file cannot be mapped.
        raw = np.memmap(self.path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self._bytes: np.ndarray = raw.view(np.ndarray)
        header = read_header(self._bytes, self.path)
        self._index = build_index(self._bytes, header, self.path)
        self.version = header.version
        self.embedding_dim = header.embedding_dim
        self.has_tokens = bool(header.flags & HAS_TOKENS)
        self.has_text = bool(header.flags & HAS_TEXT)
        self.normalized = bool(header.flags & NORMALIZED)
        self._check_values()

    def __len__(self) -> int:
        return len(self._index.target_at)

    def text(self, i: int) -> str:
        """Text of sample ``i``."""
        if not self.has_text:
            raise ValueError(f"[efb] {self.path} must have text, got tokens only.")
        start, length = self._index.text_at[i], self._index.text_bytes[i]
        try:
            return self._bytes[start : start + length].tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(int(start) + error.start, "text is not UTF-8") from error

    def texts(self) -> list[str]:
        """All texts, decoded."""
        return [self.text(i) for i in range(len(self))]

    def padded_tokens(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of sample ``i`` as stored, both ``[L]`` int32."""
        if not self.has_tokens:
            raise ValueError(f"[efb] {self.path} must have tokens, got text only.")
        start, count = int(self._index.ids_at[i]), int(self._index.ids_count[i])
        raw = self._bytes[start : start + 5 * count].tobytes()
        ids = np.frombuffer(raw, "<u4", count)
        mask = np.frombuffer(raw, np.uint8, count, offset=4 * count)
        return ids.astype(np.int32), mask.astype(np.int32)

    def tokens(self, i: int) -> np.ndarray:
        """Real ids of sample ``i``, ``[sum of its mask]`` int32."""
        ids, mask = self.padded_tokens(i)
        return ids[mask == 1]

    def target_rows(self, indices: np.ndarray) -> np.ndarray:
        """Vectors of some samples, ``[n, E]`` float32, copied out of the map."""
        starts = self._index.target_at[indices]
        rows = windows(self._bytes, starts, 4 * self.embedding_dim)
        return rows.view("<f4").astype(np.float32, copy=False)

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """All vectors, ``[N, E]`` float32."""
        targets = np.empty((len(self), self.embedding_dim), np.float32)
        for chunk in self._chunks():
            targets[chunk] = self.target_rows(chunk)
        return targets

    def provenance(self) -> Provenance | None:
        """Read what made the vectors; ``None`` where no note lies beside the file."""
        return read_provenance(self.path)

    # Checks ----------------------------------------------------------------

    def _check_values(self) -> None:
        for chunk in self._chunks():
            if self.has_tokens:
                self._check_tokens(chunk)
            self._check_targets(chunk)
        if self.has_text:
            for i in range(len(self)):
                self.text(i)

    def _check_targets(self, chunk: np.ndarray) -> None:
        rows = self.target_rows(chunk)
        finite = np.isfinite(rows)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            offset = self._index.target_at[chunk[row]] + 4 * column
            raise self._error(offset, "target must be finite, got NaN or infinity")
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
        bad = np.flatnonzero(np.abs(norms - 1.0) > _UNIT_TOLERANCE)
        if self.normalized and len(bad):
            sample = chunk[bad[0]]
            what = f"target of sample {sample} must have length 1 as the header says"
            offset = self._index.target_at[sample]
            raise self._error(offset, f"{what}, got {norms[bad[0]]:g}")

    def _check_tokens(self, chunk: np.ndarray) -> None:
        starts, counts = self._index.ids_at[chunk], self._index.ids_count[chunk]
        mask_at = ranges(starts + 4 * counts, counts, 1)
        bad = np.flatnonzero(self._bytes[mask_at] > 1)
        if len(bad):
            offset = mask_at[bad[0]]
            value = self._bytes[offset]
            raise self._error(offset, f"mask must be 0 or 1, got {value}")
        top_byte_at = ranges(starts + 3, counts, 4)
        bad = np.flatnonzero(self._bytes[top_byte_at] > 127)
        if len(bad):
            offset = top_byte_at[bad[0]] - 3
            raise self._error(offset, f"token id must be at most {MAX_ID}")

    def _chunks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _CHUNK):
            yield np.arange(start, min(start + _CHUNK, len(self)))

    def _error(self, offset: int, what: str) -> EFBError:
        return efb_error(self.path, offset, what)


class EFBWriter:
    """Writes an EFB file sample by sample; it appears when the ``with`` block ends.

    The number of samples is filled in at the end, the bytes are flushed to the disk
    and only then does the file get its name. An error inside the block leaves nothing.
    """

    def __init__(
        self,
        path: Path,
        embedding_dim: int,
        *,
        has_text: bool,
        has_tokens: bool,
        normalized: bool = False,
        version: int = 2,
        provenance: Provenance | None = None,
    ) -> None:
        if version not in HEADER_BYTES:
            raise ValueError(f"[efb] version must be 1 or 2, got {version}.")
        if version == 1 and (has_text or not has_tokens or normalized):
            raise ValueError("[efb] EFB1 must have tokens, no text and no flags.")
        if embedding_dim < 1:
            raise ValueError(f"[efb] embedding_dim must be positive: {embedding_dim}.")
        self.path = Path(path)
        self._embedding_dim, self._provenance = embedding_dim, provenance
        self._has_text, self._has_tokens = has_text, has_tokens
        self._normalized = normalized
        flags = HAS_TOKENS * has_tokens + HAS_TEXT * has_text + NORMALIZED * normalized
        self._header = f"EFB{version}".encode() + struct.pack("<II", 0, embedding_dim)
        if version == 2:
            self._header += U32.pack(flags)
        self._count = 0
        self._open = ExitStack()

    def add(
        self,
        target: np.ndarray,
        *,
        text: str | None = None,
        ids: Sequence[int] | np.ndarray | None = None,
        mask: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Append one sample.

        Args:
            target: Its vector, ``[E]``; finite.
            text: Its text; given exactly when the file has text.
            ids: Its token ids, ``[L]``; given exactly when the file has tokens.
            mask: 1 for real ids, 0 for padding, ``[L]``; all ones by default.
        """
        if (text is not None) != self._has_text:
            raise ValueError("[efb] text must be given exactly when the file has text.")
        if (ids is not None) != self._has_tokens:
            raise ValueError("[efb] ids must be given exactly when the file has them.")
        sample = b""
        if text is not None:
            encoded = text.encode("utf-8")
            sample += U32.pack(len(encoded)) + encoded
        if ids is not None:
            sample += _pack_tokens(np.asarray(ids), mask)
        self._file.write(sample + self._pack_target(np.asarray(target)))
        self._count += 1

    def _pack_target(self, target: np.ndarray) -> bytes:
        if target.shape != (self._embedding_dim,):
            raise ValueError(
                f"[efb] target must be [E] = [{self._embedding_dim}], "
                f"got {list(target.shape)}."
            )
        packed = target.astype("<f4")
        if not np.isfinite(packed).all():
            raise ValueError(f"[efb] target {self._count} must be finite.")
        if self._normalized and abs(np.linalg.norm(packed) - 1.0) > _UNIT_TOLERANCE:
            raise ValueError(f"[efb] target {self._count} must have length 1.")
        return packed.tobytes()

    def __enter__(self) -> Self:
        aside = self._open.enter_context(write_aside(self.path))
        self._file = self._open.enter_context(aside.open("wb"))
        self._file.write(self._header)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if error is not None:
                # write_aside removes the file when it sees the error.
                raise error
            size = self._file.tell()
            self._file.seek(4)
            self._file.write(U32.pack(self._count))
            # A note about an older file of this name must not outlive that file.
            sidecar_path(self.path).unlink(missing_ok=True)
        if self._provenance is not None:
            digest = sha256_of(self.path)
            write_provenance(self.path, self._provenance, self._count, size, digest)


def _pack_tokens(ids: np.ndarray, mask: Sequence[int] | np.ndarray | None) -> bytes:
    packed_mask = np.ones(len(ids), np.uint8) if mask is None else np.asarray(mask)
    if ids.ndim != 1 or len(ids) == 0 or packed_mask.shape != ids.shape:
        raise ValueError(
            f"[efb] ids and mask must be [L] with L >= 1, got {list(ids.shape)} "
            f"and {list(packed_mask.shape)}."
        )
    if ids.min() < 0 or ids.max() > MAX_ID:
        raise ValueError(f"[efb] ids must be 0..{MAX_ID}.")
    if not np.isin(packed_mask, (0, 1)).all():
        raise ValueError("[efb] mask must be 0 or 1.")
    length = U32.pack(len(ids))
    return length + ids.astype("<u4").tobytes() + packed_mask.astype("u1").tobytes()

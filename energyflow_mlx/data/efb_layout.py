"""Byte layout of EFB1 and EFB2: header, and where each sample's parts lie.

Little-endian and unaligned. A file is a header and samples back to back:

    EFB1  magic, u32 N, u32 E;            sample: u32 L, L u32 ids, L u8 mask, E f32
    EFB2  magic, u32 N, u32 E, u32 flags; sample: [u32 T, T bytes UTF-8]
                                                  [u32 L, L u32 ids, L u8 mask] E f32

The flags say which parts an EFB2 file has (text, tokens) and whether its vectors are
normalized.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from energyflow_mlx.errors import EFBError

HAS_TOKENS, HAS_TEXT, NORMALIZED = 1, 2, 4
MAX_ID = 2**31 - 1
U32 = struct.Struct("<I")
_MAGICS = {b"EFB1": 1, b"EFB2": 2}
HEADER_BYTES = {1: 12, 2: 16}


class Header(NamedTuple):
    """What the first 12 or 16 bytes say."""

    version: int
    samples: int
    embedding_dim: int
    flags: int


class Index(NamedTuple):
    """Byte offsets and lengths of the samples' parts, each ``[N]`` int64.

    Parts the file does not have are empty arrays.
    """

    text_at: np.ndarray
    text_bytes: np.ndarray
    ids_at: np.ndarray
    ids_count: np.ndarray
    target_at: np.ndarray


def efb_bytes(
    shape: Sequence[int],
    texts: Sequence[str] | None,
    ids: Sequence[np.ndarray] | None,
) -> int:
    """Bytes of an EFB2 file.

    Args:
        shape: ``[N, E]`` of its vectors.
        texts: Its texts, if it has them.
        ids: Its token ids ``[L]``, if it has them.
    """
    size = HEADER_BYTES[2] + 4 * shape[0] * shape[1]
    size += sum(U32.size + len(text.encode()) for text in texts or ())
    return size + sum(U32.size + 5 * len(row) for row in ids or ())


def efb_error(path: Path, offset: int, what: str) -> EFBError:
    """Make this format's error: path, byte offset, expected and got."""
    return EFBError(f"[efb] {path}: byte {int(offset)}: {what}.")


def read_header(raw: np.ndarray, path: Path) -> Header:
    """Decode and check the header of a file's bytes ``[n]`` uint8."""
    size = len(raw)
    if size < 4:
        raise efb_error(path, size, f"expected a header of 12 bytes, got {size}")
    magic = raw[:4].tobytes()
    if magic not in _MAGICS:
        raise efb_error(path, 0, f"expected the magic EFB1 or EFB2, got {magic!r}")
    version = _MAGICS[magic]
    need = HEADER_BYTES[version]
    if size < need:
        raise efb_error(path, size, f"expected a header of {need} bytes, got {size}")
    samples, embedding_dim = (U32.unpack_from(raw, at)[0] for at in (4, 8))
    flags = HAS_TOKENS if version == 1 else U32.unpack_from(raw, 12)[0]
    if embedding_dim == 0:
        raise efb_error(path, 8, "vector size must be at least 1, got 0")
    if flags > HAS_TOKENS + HAS_TEXT + NORMALIZED:
        raise efb_error(path, 12, f"flags must be at most 7, got unknown bits: {flags}")
    return Header(version, samples, embedding_dim, flags)


def build_index(raw: np.ndarray, header: Header, path: Path) -> Index:
    """Find every sample's parts; the samples must end where the file ends."""
    if header.flags & (HAS_TEXT | HAS_TOKENS):
        starts, end = _walk(raw, header, path)
    else:
        starts, end = _stride(raw, header, path)
    if end != len(raw):
        hint = " (its writer did not finish)" if header.samples == 0 else ""
        what = f"expected the end after {header.samples} samples{hint}"
        raise efb_error(path, end, f"{what}, got {len(raw) - end} bytes more")
    at, none = starts, np.zeros(0, np.int64)
    text_at = text_bytes = ids_at = ids_count = none
    if header.flags & HAS_TEXT:
        text_at, text_bytes = at + 4, _u32_at(raw, at)
        at = text_at + text_bytes
    if header.flags & HAS_TOKENS:
        ids_at, ids_count = at + 4, _u32_at(raw, at)
        at = ids_at + 5 * ids_count
    return Index(text_at, text_bytes, ids_at, ids_count, at)


def windows(raw: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Copy ``width`` bytes from each start, aligned or not: ``[n, width]`` uint8."""
    if len(starts) == 0:
        return np.zeros((0, width), np.uint8)
    return np.lib.stride_tricks.sliding_window_view(raw, width)[starts]


def ranges(starts: np.ndarray, counts: np.ndarray, step: int) -> np.ndarray:
    """``starts[i] + step * k`` for every k below ``counts[i]``, all in one row."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - step * before, counts) + step * np.arange(counts.sum())


def _u32_at(raw: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return windows(raw, starts, 4).view("<u4")[:, 0].astype(np.int64)


def _stride(raw: np.ndarray, header: Header, path: Path) -> tuple[np.ndarray, int]:
    """Compute the starts of samples that are bare vectors."""
    start, width = HEADER_BYTES[header.version], 4 * header.embedding_dim
    fitting = (len(raw) - start) // width
    if fitting < header.samples:
        raise _cut_short(path, start + fitting * width, width, len(raw))
    starts = start + width * np.arange(header.samples, dtype=np.int64)
    return starts, start + header.samples * width


def _walk(raw: np.ndarray, header: Header, path: Path) -> tuple[np.ndarray, int]:
    """Find the starts of samples of differing size, each from the one before."""
    view, size, width = memoryview(raw), len(raw), 4 * header.embedding_dim
    parts = [("text", 1)] if header.flags & HAS_TEXT else []
    parts += [("tokens", 5)] if header.flags & HAS_TOKENS else []
    starts, at, read_u32 = [], HEADER_BYTES[header.version], U32.unpack_from
    for i in range(header.samples):
        starts.append(at)
        for part, unit in parts:
            if at + 4 > size:
                raise _cut_short(path, at, 4, size)
            length = read_u32(view, at)[0]
            if length == 0 and part == "tokens":
                what = f"sample {i} must have at least 1 token, got length 0"
                raise efb_error(path, at, what)
            if at + 4 + unit * length > size:
                raise _cut_short(path, at + 4, unit * length, size)
            at += 4 + unit * length
        if at + width > size:
            raise _cut_short(path, at, width, size)
        at += width
    return np.asarray(starts, np.int64), at


def _cut_short(path: Path, at: int, need: int, size: int) -> EFBError:
    return efb_error(path, at, f"truncated: expected {need} bytes, got {size - at}")

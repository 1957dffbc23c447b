"""Runs a forward function over many token rows, several CPU cores at a time.

MLX's CPU backend runs the operations of one stream one after another, and only its
matrix products use more than one core. Chunks of rows are therefore dealt to as many
streams as the BLAS has threads, and the BLAS is held to one thread meanwhile: every
core then works on a chunk of its own. On a GPU there is one stream.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import pad_rows

# Tokens of one chunk. On the CPU a chunk's widest activation should stay in the
# cache; a GPU wants enough rows to fill it.
_CPU_CHUNK_TOKENS = 512
_GPU_CHUNK_TOKENS = 32_768

Forward = Callable[[mx.array, mx.array | None], mx.array]


def padded_length(length: int) -> int:
    """Round a row's length up, so that few shapes occur.

    To a multiple of 2 up to 32, of 4 up to 64 and of 8 above: at most 32 lengths up
    to 128, and at most a seventh of a chunk is padding.
    """
    step = 2 if length <= 32 else 4 if length <= 64 else 8
    return -(-length // step) * step


def chunk_rows(length: int, batch_size: int, chunk_tokens: int) -> int:
    """Rows of a full chunk at this padded length."""
    return min(batch_size, max(1, chunk_tokens // length))


def plan_chunks(
    lengths: np.ndarray, batch_size: int, chunk_tokens: int
) -> list[tuple[int, np.ndarray]]:
    """Cut rows, longest first, into chunks of near-equal lengths.

    Args:
        lengths: Tokens of each row, ``[N]``.
        batch_size: Most rows in a chunk.
        chunk_tokens: Most tokens in a chunk, padding included; a single longer row
            is a chunk of its own.

    Returns:
        Padded length and row indices of each chunk; every row once.
    """
    order = np.argsort(-lengths, kind="stable")
    chunks = []
    start = 0
    while start < len(order):
        length = padded_length(int(lengths[order[start]]))
        rows = chunk_rows(length, batch_size, chunk_tokens)
        chunks.append((length, order[start : start + rows]))
        start += rows
    return chunks


def run_chunks(
    forward: Forward, rows: Sequence[np.ndarray], batch_size: int, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Apply ``forward`` to all rows, in chunks and in parallel.

    Args:
        forward: Maps ids ``[B, L]`` and a mask ``[B, L]`` (None when nothing is
            padded) to ``[B, E]``.
        rows: Token ids of each row.
        batch_size: Most rows in a chunk.
        limit: The longest input that ``forward`` takes, in tokens.

    Yields:
        Row indices ``[B]`` and their results ``[B, E]``, as they become ready.
    """
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    tokens = _CPU_CHUNK_TOKENS if on_cpu else _GPU_CHUNK_TOKENS
    chunks = plan_chunks(lengths, batch_size, tokens)
    streams = _cpu_streams() if on_cpu else (mx.default_stream(mx.default_device()),)
    pending: deque[tuple[np.ndarray, mx.array]] = deque()
    with _one_blas_thread() if len(streams) > 1 else nullcontext():
        for turn, (length, members) in enumerate(chunks):
            height = min(
                chunk_rows(length, batch_size, tokens), _power_of_two(len(members))
            )
            ids, mask = pad_rows([rows[i] for i in members], min(length, limit), height)
            with mx.stream(streams[turn % len(streams)]):
                known = None if mask.all() else mx.array(mask)
                y = forward(mx.array(ids), known)[: len(members)]
            mx.async_eval(y)
            pending.append((members, y))
            if len(pending) > len(streams):
                yield _take(pending)
        while pending:
            yield _take(pending)


def _take(pending: deque[tuple[np.ndarray, mx.array]]) -> tuple[np.ndarray, np.ndarray]:
    members, y = pending.popleft()
    return members, np.array(y)


def _power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << (count - 1).bit_length()


@functools.cache
def _cpu_streams() -> tuple[mx.Stream, ...]:
    """One CPU stream per BLAS thread, made once: each keeps a thread alive."""
    count = max(1, _blas_threads())
    first = mx.default_stream(mx.cpu)
    return (first, *(mx.new_stream(mx.cpu) for _ in range(count - 1)))


def _openblas(name: str) -> Callable[..., int] | None:
    """Find a routine of the OpenBLAS that MLX uses; None when it uses another BLAS."""
    try:
        return getattr(ctypes.CDLL(None), f"scipy_openblas_{name}")
    except AttributeError:
        return None


def _blas_threads() -> int:
    routine = _openblas("get_num_threads")
    return 1 if routine is None else int(routine())


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Hold OpenBLAS to one thread per caller."""
    set_threads = _openblas("set_num_threads")
    assert set_threads is not None  # several streams imply OpenBLAS
    before = _blas_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)

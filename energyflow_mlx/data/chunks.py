"""Runs a forward function over many rows of token ids: in length order, overlapped.

Rows are cut into chunks of near-equal lengths, so that little is padding and few shapes
occur; a chunk holds as many tokens as suit the device, not a fixed number of sentences.
Rows may come in windows: while the device computes the chunks of one, a thread prepares
the next (``data.prefetch``; tokenizers let other threads run). MLX is called from the
caller's thread alone.

MLX's CPU backend runs the operations of one stream one after another, and only its
matrix products use more than one core. So chunks are dealt to as many streams as the
BLAS has threads, and the BLAS is held to one thread meanwhile: every core then works on
a chunk of its own. On a GPU there is one stream.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.data.prefetch import prefetch

# Tokens of one chunk. On the CPU a chunk's widest activation should stay in the
# cache, and a network of few wide layers has fewer of them than one of attention; a GPU
# wants enough rows to fill it.
CPU_CHUNK_TOKENS = 512
CPU_CHUNK_TOKENS_OF_FEW_LAYERS = 1024
_GPU_CHUNK_TOKENS = 32_768
# Sentences tokenised at a time: a few chunks of a GPU, so that both sides have work.
WINDOW = 4096
_WINDOWS_AHEAD = 2

Rows = Sequence[np.ndarray]
Forward = Callable[[mx.array, mx.array | None], mx.array]


def windows_of(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in runs of ``WINDOW``."""
    return (texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW))


def padded_length(length: int) -> int:
    """Round a row's length up, so that few shapes occur.

    To a multiple of 2 up to 32, of 4 up to 64 and of 8 above: at most 32 lengths up
    to 128, and at most a seventh of a chunk is padding.
    """
    step = 2 if length <= 32 else 4 if length <= 64 else 8
    return -(-length // step) * step


def chunk_rows(length: int, batch_size: int, chunk_tokens: int) -> int:
    """Rows of a full chunk at this padded length.

    Args:
        length: Tokens of a row.
        batch_size: Most rows; 0 = no other bound than the tokens.
        chunk_tokens: Most tokens, padding included; one row may be longer.

    Returns:
        A power of two, or ``batch_size``: each shape is traced once and kept.
    """
    rows = 1 << max(1, chunk_tokens // length).bit_length() - 1
    return min(rows, batch_size or rows)


def plan_chunks(
    lengths: np.ndarray, batch_size: int, chunk_tokens: int
) -> list[tuple[int, np.ndarray]]:
    """Cut rows, longest first, into chunks of near-equal lengths.

    Args:
        lengths: Tokens of each row, ``[N]``.
        batch_size: As for ``chunk_rows``.
        chunk_tokens: As for ``chunk_rows``.

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
    forward: Forward,
    windows: Iterable[Rows],
    batch_size: int,
    limit: int,
    *,
    cpu_tokens: int = CPU_CHUNK_TOKENS,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Apply ``forward`` to all rows of all windows, in chunks and in parallel.

    An error of ``windows`` is raised here; however this iterator ends, the thread that
    prepares windows has ended too.

    Args:
        forward: Maps ids ``[B, L]`` and a mask ``[B, L]`` (None when nothing is
            padded) to ``[B, E]``.
        windows: Token ids of the rows; consumed on a thread of its own, ahead.
        batch_size: Most rows in a chunk; 0 = as many as suit the device.
        limit: The longest input that ``forward`` takes, in tokens.
        cpu_tokens: Tokens that suit the CPU.

    Yields:
        Row indices ``[B]``, counted over all windows, and their results ``[B, E]``, as
        they become ready.
    """
    streams = _streams()
    turns = itertools.cycle(streams)
    pending: deque[tuple[np.ndarray, mx.array]] = deque()
    with (
        _one_blas_thread() if len(streams) > 1 else nullcontext(),
        closing(prefetch(windows, _WINDOWS_AHEAD)) as ready,
    ):
        for members, ids, mask in _padded_chunks(ready, batch_size, limit, cpu_tokens):
            with mx.stream(next(turns)):
                known = None if mask.all() else mx.array(mask)
                y = forward(mx.array(ids), known)[: len(members)]
            mx.async_eval(y)
            pending.append((members, y))
            if len(pending) > len(streams):
                yield _take(pending)
        while pending:
            yield _take(pending)


def _padded_chunks(
    windows: Iterable[Rows], batch_size: int, limit: int, cpu_tokens: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row indices, ids and mask of each chunk of each window."""
    tokens = cpu_tokens if _on_cpu() else _GPU_CHUNK_TOKENS
    first = 0
    for rows in windows:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        for length, members in plan_chunks(lengths, batch_size, tokens):
            full = chunk_rows(length, batch_size, tokens)
            height = min(full, _power_of_two(len(members)))
            chosen = [rows[i] for i in members]
            ids, mask = pad_rows(chosen, min(length, limit), height)
            yield first + members, ids, mask
        first += len(rows)


def _take(pending: deque[tuple[np.ndarray, mx.array]]) -> tuple[np.ndarray, np.ndarray]:
    members, y = pending.popleft()
    return members, np.array(y)


def _power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << (count - 1).bit_length()


def _on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.cpu)


def _streams() -> tuple[mx.Stream, ...]:
    """Streams that chunks are dealt to."""
    return _cpu_streams() if _on_cpu() else (mx.default_stream(mx.default_device()),)


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

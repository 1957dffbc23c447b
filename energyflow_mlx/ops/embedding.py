"""Rows of a table, with a gradient that adds nothing atomically.

    rows[n] = table[ids[n]]        gtable[r] = sum of grad[n] over ids[n] = r

MLX's own gradient of a gather adds every row with an atomic operation to the row of its
token. Texts are a few frequent tokens and padding, so most of those additions meet at
the same addresses; half formats have no such operation and retry. Here the positions
are sorted by token and every row of the table sums its own segment, in one order: equal
input gives equal bits. Long segments are summed in two levels. The sums are float32
whatever the format, and a float32 table read in a half format gets them unrounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import (
    FLOAT_DTYPES,
    Backend,
    KernelSpec,
    Threads,
    features_per_lane,
    launch,
    resolve,
)
from energyflow_mlx.runtime import native

FORWARD = KernelSpec("embedding", "forward", inputs=("table", "ids"), outputs=("rows",))
SEGMENTS = KernelSpec(
    "embedding",
    "segments",
    inputs=("grad", "order", "sorted"),
    outputs=("starts", "partial"),
)
BACKWARD = KernelSpec(
    "embedding",
    "backward",
    inputs=("grad", "order", "starts", "partial"),
    outputs=("gtable",),
)

_GROUP = 256  # threads a group
_CHUNK = 32  # positions summed at the first level


def embedding(
    table: mx.array,
    ids: mx.array,
    *,
    dtype: mx.Dtype | None = None,
    backend: Backend = "auto",
) -> mx.array:
    """Rows of a table, ``rows[n] = table[ids[n]]``.

    Args:
        table: ``[R, D]``; float32, float16 or bfloat16.
        ids: Row numbers of any shape, integers; one outside ``[0, R)`` gives zeros,
            since to refuse it would need its value.
        dtype: Format of the result; that of the table where it is not given.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[*ids.shape, D]``. The table's gradient has the table's dtype and sums in
        float32.

    Raises:
        ValueError: ``table`` is not 2-D.
        TypeError: A dtype is not of the lists above.
    """
    dtype = table.dtype if dtype is None else dtype
    _check(table, ids, dtype)
    chosen = resolve(backend, "embedding")
    if chosen == "reference" or ids.size == 0 or table.size == 0:
        return embedding_reference(table, ids, dtype)
    flat = mx.stop_gradient(ids.reshape(-1).astype(mx.int32))
    rows = _lookup(chosen, dtype)(table, flat)
    return rows.reshape(*ids.shape, table.shape[1])


def embedding_reference(
    table: mx.array, ids: mx.array, dtype: mx.Dtype | None = None
) -> mx.array:
    """Plain MLX form of ``embedding``; the specification of its kernels."""
    wide = table.astype(mx.float32)  # the gradient's sum is float32 too
    inside = (ids >= 0) & (ids < table.shape[0])
    rows = mx.where(inside[..., None], wide[mx.where(inside, ids, 0)], 0.0)
    return rows.astype(table.dtype if dtype is None else dtype)


@cache
def _lookup(backend: str, dtype: mx.Dtype) -> Callable[..., mx.array]:
    """``(table, ids [N] int32) -> rows`` on a kernel, with its gradient."""

    @mx.custom_function
    def lookup(table: mx.array, ids: mx.array) -> mx.array:
        if backend == "cpu":
            return _rows_on_cpu(table, ids).astype(dtype)
        lane = features_per_lane(dtype, backend)
        template = [("S", table.dtype), ("T", dtype), ("V", lane)]
        shape = (ids.size, table.shape[1])
        threads = _threads(ids.size, table.shape[1], lane, template)
        (rows,) = launch(FORWARD, [table, ids], [(shape, dtype)], threads, backend)
        return rows

    @lookup.vjp
    def lookup_vjp(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array]:
        table, ids = primals
        grad = cotangent.astype(dtype)
        gtable = _segment_sum(backend, table.shape[0], table.dtype)(grad, ids)
        return gtable, mx.zeros_like(ids)

    return lookup


@cache
def _segment_sum(
    backend: str, rows: int, dtype: mx.Dtype
) -> Callable[[mx.array, mx.array], mx.array]:
    """``(grad [N, D], ids [N]) -> gtable [rows, D]`` on kernels; the adjoint."""

    @mx.custom_function
    def segment_sum(grad: mx.array, ids: mx.array) -> mx.array:
        if backend == "cpu":
            return _sum_on_cpu(grad, ids, rows).astype(dtype)
        order = mx.argsort(ids)
        return _sum_sorted(grad, order, ids[order], rows, dtype, backend)

    @segment_sum.vjp
    def segment_sum_vjp(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array]:
        grad, ids = primals
        return _lookup(backend, grad.dtype)(cotangent, ids), mx.zeros_like(ids)

    return segment_sum


def _sum_sorted(
    grad: mx.array,
    order: mx.array,
    ordered: mx.array,
    rows: int,
    dtype: mx.Dtype,
    backend: str,
) -> mx.array:
    """Sum the rows of ``grad [N, D]`` by id, positions in rising order of their id."""
    count, width = grad.shape
    lane = features_per_lane(grad.dtype, backend)
    chunks = -(-count // _CHUNK)
    template = [("T", grad.dtype), ("ROWS", rows), ("CHUNK", _CHUNK), ("V", lane)]
    threads = _threads(chunks, width, lane, template, least=rows + 1)
    outputs = [((rows + 1,), mx.int32), ((chunks, width), mx.float32)]
    starts, partial = launch(
        SEGMENTS, [grad, order, ordered], outputs, threads, backend
    )
    template = [("S", dtype), ("T", grad.dtype), ("CHUNK", _CHUNK), ("V", lane)]
    threads = _threads(rows, width, lane, template)
    inputs = [grad, order, starts, partial]
    (gtable,) = launch(BACKWARD, inputs, [((rows, width), dtype)], threads, backend)
    return gtable


def _rows_on_cpu(table: mx.array, ids: mx.array) -> mx.array:
    """Rows of the table, float32; zero where an id is negative."""
    inputs, sizes = [table.astype(mx.float32), ids], [ids.size, *table.shape]
    outputs = [((ids.size, table.shape[1]), mx.float32)]
    return native.launch("embedding_forward", inputs, outputs, sizes)[0]


def _sum_on_cpu(grad: mx.array, ids: mx.array, rows: int) -> mx.array:
    """Sum of the rows of ``grad [N, D]`` by id, ``[rows, D]`` float32."""
    inputs, sizes = [grad.astype(mx.float32), ids], [*grad.shape, rows]
    outputs = [((rows, grad.shape[1]), mx.float32)]
    return native.launch("embedding_backward", inputs, outputs, sizes)[0]


def pack_rows(
    x: mx.array, position: mx.array, place: mx.array, *, backend: Backend = "auto"
) -> mx.array:
    """Rows of ``x`` that are wanted, side by side; gradients go back by a look-up too.

        y[t] = x[position[t]]        gx[n] = gy[place[n]], or 0 where place[n] < 0

    Args:
        x: ``[N, D]``; float32, float16 or bfloat16.
        position: Row of ``x`` for each packed row, ``[T]`` integers.
        place: Packed row of each row of ``x``, ``[N]`` integers, -1 where it is in
            none; a packed row that no place names gets no gradient through.
        backend: Which implementation of the embedding to run; see ``ops._backend``.

    Returns:
        ``[T, D]`` in ``x.dtype``.
    """
    chosen = resolve(backend, "embedding")
    if position.size == 0 or x.size == 0:
        chosen = "reference"
    arrays = [mx.stop_gradient(a.astype(mx.int32)) for a in (position, place)]
    return _packed(chosen)(x, *arrays)


@cache
def _packed(backend: str) -> Callable[..., mx.array]:
    """``(x, position, place) -> y``, with its gradient."""

    def rows(x: mx.array, ids: mx.array) -> mx.array:
        if backend != "reference":
            return _lookup(backend, x.dtype)(x, ids)
        return mx.where(ids[:, None] >= 0, x[mx.maximum(ids, 0)], 0)

    @mx.custom_function
    def packed(x: mx.array, position: mx.array, place: mx.array) -> mx.array:
        return rows(x, position)

    @packed.vjp
    def packed_vjp(
        primals: tuple[mx.array, mx.array, mx.array], g: mx.array, _output: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        x, position, place = primals
        gx = rows(g.astype(x.dtype), place)
        return gx, mx.zeros_like(position), mx.zeros_like(place)

    return packed


def _threads(
    rows: int, width: int, lane: int, template: list, least: int = 1
) -> Threads:
    """One thread for ``lane`` features of each row."""
    total = max(rows * -(-width // lane), least)
    return Threads(total, min(_GROUP, total), template)


def _check(table: mx.array, ids: mx.array, dtype: mx.Dtype) -> None:
    if table.ndim != 2:
        raise ValueError(f"[embedding] table must be [R, D], got {list(table.shape)}.")
    if table.dtype not in FLOAT_DTYPES or dtype not in FLOAT_DTYPES:
        raise TypeError(
            "[embedding] table and dtype must be float formats, "
            f"got {table.dtype} and {dtype}."
        )
    if not mx.issubdtype(ids.dtype, mx.integer):
        raise TypeError(f"[embedding] ids must be integers, got {ids.dtype}.")

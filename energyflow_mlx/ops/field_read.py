"""What flows read of a field that fills the cube: the mean of the cells around each.

The lattice reads its medium with it; ``field_write`` is the other way round, and each
is the other's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, KernelSpec, launch, resolve
from energyflow_mlx.ops._field_cells import Triple, check, corners, thread_a_flow
from energyflow_mlx.ops._lattice_cells import SHARED_HEADER
from energyflow_mlx.ops.field_write import write_on

FORWARD = KernelSpec(
    "field_read",
    "forward",
    inputs=("field", "position", "alive"),
    outputs=("value",),
    shared=SHARED_HEADER,
)
BACKWARD = KernelSpec(
    "field_read",
    "backward",
    inputs=("gvalue", "field", "position", "alive"),
    outputs=("gposition",),
    shared=SHARED_HEADER,
)


def field_read(
    field: mx.array, position: mx.array, alive: mx.array, *, backend: Backend = "auto"
) -> mx.array:
    """Values of a field at the places of the flows, by their trilinear shares.

    value[b, f] = sum_c share[b, f, c] * field[b, c]

    for the flows that are alive; see ``ops._field_cells``.

    Args:
        field: ``[B, N, N, N, C]``, cells in order of x, y, z; float32, float16 or
            bfloat16. N is 2 or more.
        position: ``[B, F, 3]``; coordinates outside [-1, 1] are clamped.
        alive: Flows that read, ``[B, F]`` bool.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, F, C]`` in ``field.dtype``; sums are accumulated in float32. Flows that
        are not alive read zeros.

    Raises:
        ValueError: A shape does not fit.
        TypeError: An array is not of the dtype that it must be.
    """
    if field.ndim != 5 or len(set(field.shape[1:4])) > 1:
        raise ValueError(
            f"[field_read] field must be [B, N, N, N, C], got {list(field.shape)}."
        )
    check("field_read", position, alive, field.shape[1], field)
    if field.shape[0] != position.shape[0]:
        raise ValueError(
            f"[field_read] field must be of {position.shape[0]} samples, "
            f"got {field.shape[0]}."
        )
    chosen = resolve(backend, "field_read")
    if chosen == "reference" or field.size == 0 or alive.size == 0:
        return field_read_reference(field, position, alive)
    return _read_on(chosen)(field, position, alive)


def field_read_reference(
    field: mx.array, position: mx.array, alive: mx.array
) -> mx.array:
    """Plain MLX form of ``field_read``; the specification of its kernels."""
    channels = field.shape[-1]
    cell, share, valid = corners(position, alive, field.shape[1])
    flat = field.astype(mx.float32).reshape(-1, channels)
    around = mx.take(flat, cell, axis=0)  # [B, F, 8, C]
    value = (share[..., None] * around).sum(axis=2)
    return mx.where(valid[..., None], value, 0.0).astype(field.dtype)


@cache
def _read_on(backend: str) -> Callable[..., mx.array]:
    """``(field, position, alive) -> value`` on a kernel."""

    @mx.custom_function
    def forward(field: mx.array, position: mx.array, alive: mx.array) -> mx.array:
        threads = thread_a_flow(alive.size, field.shape[1], T=field.dtype)
        outputs = [((*alive.shape, field.shape[-1]), field.dtype)]
        arrays = [field, position, alive]
        (value,) = launch(FORWARD, arrays, outputs, threads, backend)
        return value

    @forward.vjp
    def vjp(primals: Triple, cotangent: mx.array, _output: mx.array) -> Triple:
        field, position, alive = primals
        cells = field.shape[1]
        gfield = write_on(cells, backend)(position, cotangent, alive)
        threads = thread_a_flow(alive.size, cells, T=position.dtype)
        outputs = [(position.shape, position.dtype)]
        arrays = [cotangent, *primals]
        (gposition,) = launch(BACKWARD, arrays, outputs, threads, backend)
        return gfield, gposition, mx.zeros_like(alive)

    return forward

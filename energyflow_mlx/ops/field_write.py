"""What flows give to a field that fills the cube, each to the eight cells around it.

The lattice writes with it the energies of the flows into its medium; ``field_read`` is
the other way round, and each is the other's gradient. Particles in a cell (Harlow, "The
particle-in-cell computing method for fluid dynamics", 1964).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, KernelSpec, Threads, launch, resolve
from energyflow_mlx.ops._field_cells import Triple, check, corners, thread_a_flow
from energyflow_mlx.ops._lattice_cells import SHARED_HEADER, Tiling, sum_by_cell
from energyflow_mlx.ops.lattice_scatter import slices_of

FORWARD = KernelSpec(
    "field_write",
    "forward",
    inputs=("position", "value", "alive"),
    outputs=("field",),
    shared=SHARED_HEADER,
)
BACKWARD = KernelSpec(
    "field_write",
    "backward",
    inputs=("gfield", "position", "value", "alive"),
    outputs=("gposition", "gvalue"),
    shared=SHARED_HEADER,
)

# Floats of a copy of the tile, one a cell and channel, beside 16 bytes for each thread
# and 4 for each channel of a thread. Metal gives a group 32 KB, CUDA 48 KB.
_TILINGS = {"metal": Tiling(8, 720), "cuda": Tiling(8, 720)}
_CHANNELS = 4  # most channels of a group


def field_write(
    position: mx.array,
    value: mx.array,
    alive: mx.array,
    cells: int,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Values of the flows, spread over a field by their trilinear shares.

    field[b, c] = sum_f share[b, f, c] * value[b, f]

    over the flows that are alive; see ``ops._field_cells``. The sum over the field is
    the sum over these flows.

    Args:
        position: ``[B, F, 3]``; coordinates outside [-1, 1] are clamped.
        value: ``[B, F, C]``; float32, float16 or bfloat16.
        alive: Flows that write, ``[B, F]`` bool; others may hold anything.
        cells: Cells N along each axis, 2 or more.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, N, N, N, C]`` in ``value.dtype``, cells in order of x, y, z; sums are
        accumulated in float32. Cells that no flow reaches are 0.

    Raises:
        ValueError: A shape does not fit.
        TypeError: An array is not of the dtype that it must be.
    """
    check("field_write", position, alive, cells, value)
    if value.ndim != 3 or value.shape[:2] != alive.shape:
        raise ValueError(
            f"[field_write] value must be [B, F, C] with [B, F] = "
            f"{list(alive.shape)}, got {list(value.shape)}."
        )
    chosen = resolve(backend, "field_write")
    if chosen == "reference" or value.size == 0:
        return field_write_reference(position, value, alive, cells)
    return write_on(cells, chosen)(position, value, alive)


def field_write_reference(
    position: mx.array, value: mx.array, alive: mx.array, cells: int
) -> mx.array:
    """Plain MLX form of ``field_write``; the specification of its kernels."""
    batch, _, channels = value.shape
    cell, share, valid = corners(position, alive, cells)
    given = mx.where(valid[..., None], value.astype(mx.float32), 0.0)
    spread = share[..., None] * given[:, :, None]  # [B, F, 8, C]
    field = sum_by_cell(
        cell.reshape(-1), spread.reshape(-1, channels), batch * cells**3
    )
    return field.reshape(batch, cells, cells, cells, channels).astype(value.dtype)


@cache
def write_on(cells: int, backend: str) -> Callable[..., mx.array]:
    """``(position, value, alive) -> field`` on a kernel, of arguments that fit.

    Args:
        cells: Cells N along each axis.
        backend: ``"metal"`` or ``"cuda"``.
    """

    @mx.custom_function
    def forward(position: mx.array, value: mx.array, alive: mx.array) -> mx.array:
        batch, flows, channels = value.shape
        pack = min(channels, _CHANNELS)
        tiling = _TILINGS[backend]
        tile, tiles = tiling._replace(cells=tiling.cells // pack).cut(cells**3)
        groups = batch * tiles * -(-channels // pack)
        slices = slices_of(groups, flows)
        dtype = value.dtype if slices == 1 else mx.float32
        template = [("T", dtype), ("N", cells), ("V", pack), ("SG", tiling.warps)]
        template += [("TILE", tile), ("SLICES", slices)]
        group = tiling.warps * 32
        threads = Threads(groups * slices * group, group, template)
        outputs = [((batch, slices, cells, cells, cells, channels), dtype)]
        arrays = [position, value, alive]
        (parts,) = launch(FORWARD, arrays, outputs, threads, backend)
        return parts[:, 0] if slices == 1 else parts.sum(axis=1).astype(value.dtype)

    @forward.vjp
    def vjp(primals: Triple, cotangent: mx.array, _output: mx.array) -> Triple:
        position, value, _ = primals
        flows = value.shape[0] * value.shape[1]
        threads = thread_a_flow(flows, cells, TP=position.dtype, TV=value.dtype)
        outputs = [(a.shape, a.dtype) for a in (position, value)]
        arrays = [cotangent, *primals]
        gposition, gvalue = launch(BACKWARD, arrays, outputs, threads, backend)
        return gposition, gvalue, mx.zeros_like(primals[2])

    return forward

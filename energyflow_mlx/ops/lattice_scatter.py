"""Weighted sum of the flows that reach each cell of a lattice surface.

The lattice counts with it the flows that arrive at a face; its surface of energies is
read by ``lattice_readout``, a quotient of two such sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx

from energyflow_mlx.ops._backend import Backend, KernelSpec, Threads, launch, resolve
from energyflow_mlx.ops._lattice_cells import (
    SHARED_HEADER,
    CellMode,
    Size,
    Surface,
    Tiling,
    cells_and_shares,
    check,
    gather,
    is_number,
    sum_by_cell,
)

FORWARD = KernelSpec(
    "lattice_scatter",
    "forward",
    inputs=("position", "energy", "weight"),
    outputs=("surface",),
    shared=SHARED_HEADER,
)
BACKWARD = KernelSpec(
    "lattice_scatter",
    "backward",
    inputs=("gsurface", "position", "energy", "weight"),
    outputs=("gposition", "genergy", "gweight"),
    shared=SHARED_HEADER,
)

# A copy of the tile is one float a cell, beside 20 bytes for each thread. Metal gives a
# group 32 KB, CUDA 48 KB.
_TILINGS = {"metal": Tiling(8, 800), "cuda": Tiling(8, 800)}
_GROUPS = 256  # groups wanted on a GPU before flows stop being sliced
_SLICE_FLOWS = 1024  # flows of a sample that are worth a group of their own


def lattice_scatter(
    position: mx.array,
    energy: mx.array,
    weight: mx.array,
    size: Size,
    mode: CellMode,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Weighted sum of the flows that reach each cell.

    surface[b, c] = sum_f share[b, f, c] * weight[b, f] * energy[b, f]

    with a flow's share 1 in its cell (``nearest``) or its shares of the four cells
    around it (``bilinear``); coordinates outside [-1, 1] are clamped, and flows with a
    NaN coordinate are dropped. See ``ops._lattice_cells``.

    Args:
        position: ``[B, F, 2]`` or more coordinates; the first two are x and y.
        energy: ``[B, F]``; float32, float16 or bfloat16.
        weight: ``[B, F]``.
        size: Height H and width W of the surface.
        mode: ``"nearest"`` or ``"bilinear"``.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, H, W]`` in ``energy.dtype``; sums are accumulated in float32. Cells
        without a flow are 0.

    Raises:
        ValueError: A shape does not fit, or ``mode`` is unknown.
        TypeError: An array is not of a floating dtype.
    """
    check("lattice_scatter", position, energy, weight, size, mode)
    chosen = resolve(backend, "lattice_scatter")
    if chosen == "reference" or energy.size == 0:
        return lattice_scatter_reference(position, energy, weight, size, mode)
    values = _scatter_on(Surface(size, mode, chosen))(position, energy, weight)
    return values.reshape(-1, *size)


def lattice_scatter_reference(
    position: mx.array, energy: mx.array, weight: mx.array, size: Size, mode: CellMode
) -> mx.array:
    """Plain MLX form of ``lattice_scatter``; the specification of its kernels."""
    height, width = size
    valid = is_number(position)
    e = mx.where(valid, energy.astype(mx.float32), 0.0)
    w = mx.where(valid, weight.astype(mx.float32), 0.0)
    cell, share = cells_and_shares(position, size, mode)  # [1 or 4, B, F]
    surface = sum_by_cell(cell, share * (e * w), energy.shape[0] * height * width)
    return surface.reshape(-1, height, width).astype(energy.dtype)


@cache
def _scatter_on(surface: Surface) -> Callable[..., mx.array]:
    """``(position, energy, weight) -> [B, cells]`` on a kernel."""

    @mx.custom_function
    def forward(position: mx.array, energy: mx.array, weight: mx.array) -> mx.array:
        batch, flows = energy.shape
        tiling = _TILINGS[surface.backend]
        tile, tiles = tiling.cut(surface.cells)
        slices = slices_of(batch * tiles, flows)
        dtype = energy.dtype if slices == 1 else mx.float32
        template = [("T", dtype), *surface.template, ("SG", tiling.warps)]
        template += [("TILE", tile), ("SLICES", slices)]
        group = tiling.warps * 32
        threads = Threads(batch * slices * tiles * group, group, template)
        outputs = [((batch, slices, surface.cells), dtype)]
        arrays = [position, energy, weight]
        (parts,) = launch(FORWARD, arrays, outputs, threads, surface.backend)
        return parts[:, 0] if slices == 1 else parts.sum(axis=1).astype(energy.dtype)

    @forward.vjp
    def vjp(
        primals: tuple[mx.array, mx.array, mx.array],
        cotangent: mx.array,
        _output: mx.array,
    ) -> tuple[mx.array, ...]:
        return gather(surface, BACKWARD)(cotangent, *primals)

    return forward


def slices_of(groups: int, flows: int) -> int:
    """Slices of each sample's flows that fill the device, a power of two.

    Args:
        groups: Groups of threads that run without slices.
        flows: Flows of a sample.
    """
    slices = 1
    while groups * slices < _GROUPS and flows >= 2 * slices * _SLICE_FLOWS:
        slices *= 2
    return slices

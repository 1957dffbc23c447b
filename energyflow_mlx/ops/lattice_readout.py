"""Softmax average of the flows that share a cell of a lattice surface.

This is how the lattice turns landed flows into its output surface. With
``p = exp(score)`` it is the quotient of two scatters, of the energies with the weights
``p`` and of ones with the weights ``p``, times the share of the cell that is covered;
see ``lattice_scatter``.
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
    "lattice_readout",
    "forward",
    inputs=("position", "energy", "score"),
    outputs=("surface", "stats"),
    shared=SHARED_HEADER,
)
BACKWARD = KernelSpec(
    "lattice_readout",
    "backward",
    inputs=("gsurface", "stats", "position", "energy", "score"),
    outputs=("gposition", "genergy", "gscore"),
    shared=SHARED_HEADER,
)

EPSILON = 1e-12  # keeps cells without a flow from dividing by zero

# A copy of the tile is up to three floats a cell, beside 20 bytes for each thread.
# Metal gives a group 32 KB, CUDA 48 KB.
_TILINGS = {"metal": Tiling(8, 256), "cuda": Tiling(16, 196)}


def lattice_readout(
    position: mx.array,
    energy: mx.array,
    score: mx.array,
    size: Size,
    mode: CellMode,
    *,
    backend: Backend = "auto",
) -> mx.array:
    """Softmax average of the flows that share a cell.

    surface[b, c] = cover * sum_f share * p * energy / (sum_f share * p + 1e-12)

    with ``p = exp(score - max of the scores that reach the cell)``. With ``nearest``
    every share is 1 and ``cover`` is 1: this is the softmax of the scores inside each
    cell, and a cell with one flow shows its energy. With ``bilinear`` the softmax is
    weighted by the shares, and a cell that all shares together fill to ``mass < 1``
    shows only ``cover = mass * (2 - mass)`` of the average: so the surface changes
    continuously when a flow enters or leaves a cell, and its gradient stays bounded.
    Flows with a score of minus infinity or a NaN coordinate are dropped, coordinates
    outside [-1, 1] clamped. See ``ops._lattice_cells``.

    Args:
        position: ``[B, F, 2]`` or more coordinates; the first two are x and y.
        energy: ``[B, F]``; float32, float16 or bfloat16.
        score: ``[B, F]``; the softmax logits.
        size: Height H and width W of the surface.
        mode: ``"nearest"`` or ``"bilinear"``.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, H, W]`` in ``energy.dtype``; accumulated in float32. Cells without a flow
        are 0.

    Raises:
        ValueError: A shape does not fit, or ``mode`` is unknown.
        TypeError: An array is not of a floating dtype.
    """
    check("lattice_readout", position, energy, score, size, mode)
    chosen = resolve(backend, "lattice_readout")
    if chosen == "reference" or energy.size == 0:
        return lattice_readout_reference(position, energy, score, size, mode)
    values, _ = _readout_on(Surface(size, mode, chosen))(position, energy, score)
    return values.reshape(-1, *size)


def lattice_readout_reference(
    position: mx.array, energy: mx.array, score: mx.array, size: Size, mode: CellMode
) -> mx.array:
    """Plain MLX form of ``lattice_readout``; the specification of its kernels."""
    height, width = size
    cells = energy.shape[0] * height * width
    score = score.astype(mx.float32)
    valid = mx.logical_and(is_number(position), score != -mx.inf)
    e = mx.where(valid, energy.astype(mx.float32), 0.0)
    q = mx.where(valid, score, 0.0)
    cell, share = cells_and_shares(position, size, mode)  # [1 or 4, B, F]
    share = mx.where(valid, share, 0.0)

    reaching = mx.where(share > 0, mx.stop_gradient(q), -mx.inf)
    top = mx.full((cells,), -mx.inf).at[cell].maximum(reaching)
    gap = q - mx.stop_gradient(top[cell])
    p = mx.exp(mx.where(gap > 0, 0.0, gap))  # above 1 only where the share is 0
    parts = mx.stack([share * p * e, share * p, share], axis=-1)
    weighted, total, mass = mx.moveaxis(sum_by_cell(cell, parts, cells), -1, 0)

    cover = mx.where(mass < 1, mass * (2 - mass) + 2 * EPSILON, 1.0)
    surface = weighted * cover / (total + EPSILON)
    return surface.reshape(-1, height, width).astype(energy.dtype)


@cache
def _readout_on(surface: Surface) -> Callable[..., tuple[mx.array, mx.array]]:
    """``(position, energy, score) -> ([B, cells], stats)`` on a kernel."""

    @mx.custom_function
    def forward(
        position: mx.array, energy: mx.array, score: mx.array
    ) -> tuple[mx.array, mx.array]:
        batch = energy.shape[0]
        tiling = _TILINGS[surface.backend]
        tile, tiles = tiling.cut(surface.cells)
        template = [("T", energy.dtype), *surface.template]
        template += [("SG", tiling.warps), ("TILE", tile)]
        group = tiling.warps * 32
        threads = Threads(batch * tiles * group, group, template)
        shape = (batch, surface.cells)
        outputs = [(shape, energy.dtype), ((*shape, 4), mx.float32)]
        arrays = [position, energy, score]
        values, stats = launch(FORWARD, arrays, outputs, threads, surface.backend)
        return values, stats

    @forward.vjp
    def vjp(
        primals: tuple[mx.array, mx.array, mx.array],
        cotangents: tuple[mx.array, mx.array],
        outputs: tuple[mx.array, mx.array],
    ) -> tuple[mx.array, ...]:
        # The statistics leave the operation only for this use: no cotangent.
        return gather(surface, BACKWARD)(cotangents[0], outputs[1], *primals)

    return forward

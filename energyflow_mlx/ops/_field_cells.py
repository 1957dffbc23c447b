"""Where a flow falls in a field that fills the cube: what write and read share.

A field ``[B, N, N, N, C]`` has N cells along x, y and z each. Coordinates lie in
[-1, 1]; those outside are clamped. A flow is shared by the eight cells around its place
``(u + 1) / 2 * (N - 1)`` on every axis. Flows that are not alive or have a NaN
coordinate are dropped: they write nothing, read zeros and have no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.ops._backend import FLOAT_DTYPES, Threads
from energyflow_mlx.ops._lattice_cells import grid_coordinate

Triple = tuple[mx.array, mx.array, mx.array]
"""Arrays of an operation, or their gradients."""

_CORNERS = 8
_GROUP = 256  # threads a group of a kernel with one thread a flow


class Corners(NamedTuple):
    """The eight cells around every flow.

    Attributes:
        cell: Their numbers through the whole batch, ``[B, F, 8]`` int32.
        share: The flow's shares in them, ``[B, F, 8]`` float32; they add up to 1.
        valid: Flows that are not dropped, ``[B, F]`` bool.
    """

    cell: mx.array
    share: mx.array
    valid: mx.array


def corners(position: mx.array, alive: mx.array, cells: int) -> Corners:
    """Cells around each flow and its shares in them; a NaN coordinate counts as -1.

    Args:
        position: ``[B, F, 3]``.
        alive: ``[B, F]`` bool.
        cells: Cells N along each axis.
    """
    place = grid_coordinate(position, cells)  # [B, F, 3]
    low = mx.stop_gradient(mx.clip(mx.floor(place), 0, cells - 2))
    above = mx.arange(_CORNERS)[:, None] // mx.array([4, 2, 1]) % 2  # [8, 3]
    part = (place - low)[:, :, None]  # [B, F, 1, 3]
    share = mx.where(above == 1, part, 1.0 - part).prod(axis=-1)
    cell = low.astype(mx.int32)[:, :, None] + above
    strides = mx.array([cells * cells, cells, 1])
    sample = cells**3 * mx.arange(position.shape[0])[:, None, None]
    valid = mx.logical_and(alive, mx.logical_not(mx.isnan(position).any(axis=-1)))
    return Corners((cell * strides).sum(axis=-1) + sample, share, valid)


def thread_a_flow(flows: int, cells: int, **dtypes: mx.Dtype) -> Threads:
    """Threads of a kernel in which every flow gathers from its cells.

    Args:
        flows: Flows of all samples.
        cells: Cells N along each axis.
        dtypes: Dtypes of its outputs, as its text calls them.
    """
    return Threads(flows, _GROUP, [*dtypes.items(), ("N", cells)])


def check(
    op: str, position: mx.array, alive: mx.array, cells: int, *values: mx.array
) -> None:
    """Raise for arguments that do not fit.

    Args:
        op: The operation.
        position: Must be ``[B, F, 3]``.
        alive: Must be ``[B, F]`` bool.
        cells: Cells N along each axis; at least 2.
        values: What else must be of a floating dtype.

    Raises:
        ValueError: A shape does not fit, or the field has too few cells.
        TypeError: An array is not of the dtype that it must be.
    """
    if position.ndim != 3 or position.shape[-1] != 3:
        raise ValueError(
            f"[{op}] position must be [B, F, 3], got {list(position.shape)}."
        )
    if alive.shape != position.shape[:2]:
        raise ValueError(
            f"[{op}] alive must be [B, F] = {list(position.shape[:2])}, "
            f"got {list(alive.shape)}."
        )
    if cells < 2:
        raise ValueError(f"[{op}] cells must be 2 or more, got {cells}.")
    if alive.dtype != mx.bool_:
        raise TypeError(f"[{op}] alive must be bool, got {alive.dtype}.")
    dtypes = [a.dtype for a in (position, *values)]
    if any(dtype not in FLOAT_DTYPES for dtype in dtypes):
        names = " and ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"[{op}] arrays must be float, got {names}.")

"""Where a flow falls on a lattice surface: what scatter and readout share.

A flow is a point ``(x, y)`` with an energy. Coordinates lie in [-1, 1]; ``x`` runs
along the width W and ``y`` along the height H of a surface ``[B, H, W]``; those outside
are clamped. ``nearest`` gives all of a flow to the cell
``clip(rint((x + 1) / 2 * (W - 1)), 0, W - 1)`` (and likewise y), ``bilinear`` shares it
among the four cells around it, so that positions have a gradient. Flows with a NaN
coordinate are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import mlx.core as mx

from energyflow_mlx.ops._backend import FLOAT_DTYPES, KernelSpec, Threads, launch

CellMode = Literal["nearest", "bilinear"]
Size = tuple[int, int]  # height, width

SHARED_HEADER = "lattice_cells"
_GROUP = 256  # threads a group of a backward kernel


class Tiling(NamedTuple):
    """How a surface is cut for forward kernels.

    Attributes:
        warps: Simdgroups or warps a group; each has its own copy of the tile.
        cells: Most cells of a tile.
    """

    warps: int
    cells: int

    def cut(self, cells: int) -> tuple[int, int]:
        """Cells of a tile and number of tiles for a surface, tiles about equal."""
        tiles = -(-cells // self.cells)
        return -(-cells // tiles), tiles


@dataclass(frozen=True)
class Surface:
    """What the kernels of a surface are compiled for."""

    size: Size
    mode: CellMode
    backend: str

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.size[0] * self.size[1]

    @property
    def template(self) -> list[tuple[str, Any]]:
        """Compile-time values that every kernel of the surface takes."""
        height, width = self.size
        bilinear = self.mode == "bilinear"
        return [("HEIGHT", height), ("WIDTH", width), ("BILINEAR", bilinear)]


@cache
def gather(surface: Surface, spec: KernelSpec) -> Callable[..., tuple[mx.array, ...]]:
    """Backward kernel of either operation: one thread a flow.

    Args:
        surface: The surface.
        spec: The kernel; its last three inputs are position, energy and weight or
            score, and its outputs are their gradients.

    Returns:
        A function of the kernel's inputs; it has no gradient of its own.
    """

    @mx.custom_function
    def backward(*arrays: mx.array) -> tuple[mx.array, ...]:
        flows = arrays[-3:]
        names = zip(("TP", "TE", "TW"), flows, strict=True)
        template = [*((name, a.dtype) for name, a in names), *surface.template]
        threads = Threads(flows[1].size, _GROUP, template)
        outputs = [(a.shape, a.dtype) for a in flows]
        return tuple(launch(spec, arrays, outputs, threads, surface.backend))

    return backward


def is_number(position: mx.array) -> mx.array:
    """Flows whose coordinates are no NaN, ``[B, F]``."""
    return mx.logical_not(mx.isnan(position[..., :2]).any(axis=-1))


def cells_and_shares(
    position: mx.array, size: Size, mode: CellMode
) -> tuple[mx.array, mx.array]:
    """Cells that each flow reaches and its shares in them, both ``[1 or 4, B, F]``.

    Cells are numbered through the whole batch; a NaN coordinate counts as -1.
    """
    height, width = size
    gx = grid_coordinate(position[..., 0], width)
    gy = grid_coordinate(position[..., 1], height)
    start = mx.arange(position.shape[0])[:, None] * (height * width)  # [B, 1]
    if mode == "nearest":
        column, row = (mx.stop_gradient(mx.round(g)).astype(mx.int32) for g in (gx, gy))
        cell = (start + row * width + column)[None]
        return cell, mx.ones(cell.shape)
    x0 = mx.stop_gradient(mx.clip(mx.floor(gx), 0, max(width - 2, 0)))
    y0 = mx.stop_gradient(mx.clip(mx.floor(gy), 0, max(height - 2, 0)))
    fx, fy = gx - x0, gy - y0
    cell = start + y0.astype(mx.int32) * width + x0.astype(mx.int32)
    right, below = min(1, width - 1), min(1, height - 1) * width
    cell = mx.stack([cell, cell + right, cell + below, cell + right + below])
    share = mx.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    return cell, share


def grid_coordinate(u: mx.array, cells: int) -> mx.array:
    """Coordinate in [-1, 1] as a real cell number in [0, cells - 1]."""
    u = u.astype(mx.float32)
    u = mx.where(u >= -1, u, -1.0)
    u = mx.where(u <= 1, u, 1.0)
    return (u + 1) * 0.5 * (cells - 1)


def sum_by_cell(cell: mx.array, value: mx.array, cells: int) -> mx.array:
    """Values ``[..., n]`` summed over the entries ``cell`` names: ``[cells, n]``."""
    return mx.zeros((cells, *value.shape[cell.ndim :])).at[cell].add(value)


def check(
    op: str,
    position: mx.array,
    energy: mx.array,
    weight: mx.array,
    size: Size,
    mode: str,
) -> None:
    """Raise for arguments that do not fit; ``weight`` is the score of a readout.

    Raises:
        ValueError: A shape does not fit, the surface has no cells, or ``mode`` is
            unknown.
        TypeError: An array is not of a floating dtype.
    """
    if energy.ndim != 2 or weight.shape != energy.shape:
        raise ValueError(
            f"[{op}] energy and weight or score must be [B, F], "
            f"got {list(energy.shape)} and {list(weight.shape)}."
        )
    if position.shape[:-1] != energy.shape or position.shape[-1] < 2:
        raise ValueError(
            f"[{op}] position must be {[*energy.shape, 2]} or more coordinates, "
            f"got {list(position.shape)}."
        )
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"[{op}] surface must have cells, got {height} x {width}.")
    if mode not in get_args(CellMode):
        names = " or ".join(get_args(CellMode))
        raise ValueError(f"[{op}] mode must be {names}, got {mode!r}.")
    if any(a.dtype not in FLOAT_DTYPES for a in (position, energy, weight)):
        raise TypeError(
            f"[{op}] arrays must be float, got {position.dtype}, {energy.dtype} "
            f"and {weight.dtype}."
        )

"""Flows scattered onto the cells of a lattice surface.

A flow is a point ``(x, y)`` with an energy. Coordinates lie in [-1, 1]; ``x`` runs
along the width W and ``y`` along the height H of a surface ``[B, H, W]``.
"""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

from energyflow_mlx.ops import _lattice_kernels as kernels
from energyflow_mlx.ops._backend import FLOAT_DTYPES, Backend, resolve

Mode = Literal["nearest", "bilinear"]
Boundary = Literal["clamp", "fold"]

EPSILON = 1e-12  # keeps cells without a flow from dividing by zero


def lattice_scatter(
    position: mx.array,
    energy: mx.array,
    weight: mx.array,
    height: int,
    width: int,
    mode: Mode,
    *,
    boundary: Boundary = "clamp",
    backend: Backend = "auto",
) -> mx.array:
    """Weighted sum of the flows that reach each cell.

    surface[b, c] = sum_f share[b, f, c] * weight[b, f] * energy[b, f]

    ``nearest`` gives all of a flow to the cell
    ``clip(rint((x + 1) / 2 * (W - 1)), 0, W - 1)`` (and likewise y), ``bilinear``
    shares it among the four cells around it, so that positions have a gradient.
    Coordinates outside [-1, 1] are clamped, or with ``boundary="fold"`` reflected
    once at the border and then clamped. Flows with a NaN coordinate are dropped.

    Args:
        position: ``[B, F, 2]`` or more coordinates; the first two are x and y.
        energy: ``[B, F]``; float32, float16 or bfloat16.
        weight: ``[B, F]``.
        height: Rows H of the surface.
        width: Columns W of the surface.
        mode: ``"nearest"`` or ``"bilinear"``.
        boundary: What becomes of coordinates outside [-1, 1].
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, H, W]`` in ``energy.dtype``; sums are accumulated in float32. Cells
        without a flow are 0.

    Raises:
        ValueError: A shape does not fit, or ``mode`` or ``boundary`` is unknown.
        TypeError: An array is not of a floating dtype.
    """
    _check("lattice_scatter", position, energy, weight, height, width, mode, boundary)
    chosen = resolve(backend, "lattice_scatter")
    if chosen == "reference" or energy.size == 0:
        return lattice_scatter_reference(
            position, energy, weight, height, width, mode, boundary
        )
    surface = kernels.Surface(height, width, mode, boundary, chosen)
    values = kernels.scatter(surface)(position, energy, weight)
    return values.reshape(-1, height, width)


def lattice_readout(
    position: mx.array,
    energy: mx.array,
    score: mx.array,
    height: int,
    width: int,
    mode: Mode,
    *,
    boundary: Boundary = "clamp",
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
    Flows with a score of minus infinity or a NaN coordinate are dropped.

    Args:
        position: ``[B, F, 2]`` or more coordinates; the first two are x and y.
        energy: ``[B, F]``; float32, float16 or bfloat16.
        score: ``[B, F]``; the softmax logits.
        height: Rows H of the surface.
        width: Columns W of the surface.
        mode: ``"nearest"`` or ``"bilinear"``.
        boundary: What becomes of coordinates outside [-1, 1].
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        ``[B, H, W]`` in ``energy.dtype``; accumulated in float32. Cells without a flow
        are 0.

    Raises:
        ValueError: A shape does not fit, or ``mode`` or ``boundary`` is unknown.
        TypeError: An array is not of a floating dtype.
    """
    _check("lattice_readout", position, energy, score, height, width, mode, boundary)
    chosen = resolve(backend, "lattice_scatter")
    if chosen == "reference" or energy.size == 0:
        return lattice_readout_reference(
            position, energy, score, height, width, mode, boundary
        )
    surface = kernels.Surface(height, width, mode, boundary, chosen)
    values = kernels.readout(surface)(position, energy, score)[0]
    return values.reshape(-1, height, width)


def lattice_scatter_reference(
    position: mx.array,
    energy: mx.array,
    weight: mx.array,
    height: int,
    width: int,
    mode: Mode,
    boundary: Boundary = "clamp",
) -> mx.array:
    """Plain MLX form of ``lattice_scatter``; the specification of its kernels."""
    valid = _valid(position)
    e = mx.where(valid, energy.astype(mx.float32), 0.0)
    w = mx.where(valid, weight.astype(mx.float32), 0.0)
    cell, share = _shares(position, height, width, mode, boundary)  # [4, B, F]
    surface = _sum_by_cell(cell, share * (e * w), energy.shape[0] * height * width)
    return surface.reshape(-1, height, width).astype(energy.dtype)


def lattice_readout_reference(
    position: mx.array,
    energy: mx.array,
    score: mx.array,
    height: int,
    width: int,
    mode: Mode,
    boundary: Boundary = "clamp",
) -> mx.array:
    """Plain MLX form of ``lattice_readout``; the specification of its kernels."""
    cells = energy.shape[0] * height * width
    score = score.astype(mx.float32)
    valid = mx.logical_and(_valid(position), score != -mx.inf)
    e = mx.where(valid, energy.astype(mx.float32), 0.0)
    q = mx.where(valid, score, 0.0)
    cell, share = _shares(position, height, width, mode, boundary)  # [4, B, F]
    share = mx.where(valid, share, 0.0)

    reaching = mx.where(share > 0, mx.stop_gradient(q), -mx.inf)
    top = mx.full((cells,), -mx.inf).at[cell].maximum(reaching)
    gap = q - mx.stop_gradient(top[cell])
    p = mx.exp(mx.where(gap > 0, 0.0, gap))  # above 1 only where the share is 0
    parts = mx.stack([share * p * e, share * p, share], axis=-1)
    weighted, total, mass = mx.moveaxis(_sum_by_cell(cell, parts, cells), -1, 0)

    cover = mx.where(mass < 1, mass * (2 - mass) + 2 * EPSILON, 1.0)
    surface = weighted * cover / (total + EPSILON)
    return surface.reshape(-1, height, width).astype(energy.dtype)


def _valid(position: mx.array) -> mx.array:
    return mx.logical_not(mx.isnan(position[..., :2]).any(axis=-1))  # [B, F]


def _grid_coordinate(u: mx.array, size: int, boundary: Boundary) -> mx.array:
    """Coordinate in [-1, 1] as a real cell number in [0, size - 1]."""
    u = u.astype(mx.float32)
    if boundary == "fold":
        u = mx.where(u > 1, 2 - u, mx.where(u < -1, -2 - u, u))
    u = mx.where(u >= -1, u, -1.0)  # NaN becomes -1 too; its flow is dropped
    u = mx.where(u <= 1, u, 1.0)
    return (u + 1) * 0.5 * (size - 1)


def _shares(
    position: mx.array, height: int, width: int, mode: Mode, boundary: Boundary
) -> tuple[mx.array, mx.array]:
    """Cells that each flow reaches and its shares in them, both ``[1 or 4, B, F]``.

    Cells are numbered through the whole batch.
    """
    gx = _grid_coordinate(position[..., 0], width, boundary)
    gy = _grid_coordinate(position[..., 1], height, boundary)
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


def _sum_by_cell(cell: mx.array, value: mx.array, cells: int) -> mx.array:
    """Values ``[..., n]`` summed over the entries ``cell`` names: ``[cells, n]``."""
    return mx.zeros((cells, *value.shape[cell.ndim :])).at[cell].add(value)


def _check(
    op: str,
    position: mx.array,
    energy: mx.array,
    weight: mx.array,
    height: int,
    width: int,
    mode: str,
    boundary: str,
) -> None:
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
    if height < 1 or width < 1:
        raise ValueError(f"[{op}] surface must have cells, got {height} x {width}.")
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f"[{op}] mode must be nearest or bilinear, got {mode!r}.")
    if boundary not in ("clamp", "fold"):
        raise ValueError(f"[{op}] boundary must be clamp or fold, got {boundary!r}.")
    if any(a.dtype not in FLOAT_DTYPES for a in (position, energy, weight)):
        raise TypeError(
            f"[{op}] arrays must be float, got {position.dtype}, {energy.dtype} "
            f"and {weight.dtype}."
        )

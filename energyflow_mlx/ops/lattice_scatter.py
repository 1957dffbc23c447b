"""Flows scattered onto the cells of a lattice surface.

A flow is a point ``(x, y)`` with an energy. Coordinates lie in [-1, 1]; ``x`` runs
along the width W and ``y`` along the height H of a surface ``[B, H, W]``.
"""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

from energyflow_mlx.ops._backend import FLOAT_DTYPES, Backend, resolve

Mode = Literal["nearest", "bilinear"]
Boundary = Literal["clamp", "fold"]


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

    surface[b, c] = sum_f splat[b, f, c] * weight[b, f] * energy[b, f]

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
    resolve(backend, "lattice_scatter")
    return lattice_scatter_reference(
        position, energy, weight, height, width, mode, boundary
    )


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

    surface[b, c] = min(1, mass) * sum_f splat * p * energy / (sum_f splat * p + 1e-12)

    with ``p = exp(score - max of the scores in the cell)`` and ``mass`` the sum of the
    splats in the cell. With ``nearest`` every splat is 1 and this is the softmax of
    the scores inside each cell: a cell with one flow shows its energy. With
    ``bilinear`` a cell that less than one whole flow reaches shows that part of the
    average, so that the surface is continuous in the positions. Flows with a score of
    minus infinity or a NaN coordinate are dropped.

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
    resolve(backend, "lattice_scatter")
    return lattice_readout_reference(
        position, energy, score, height, width, mode, boundary
    )


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
    cell, splat = _splats(position, height, width, mode, boundary)  # [4, B, F]
    value = energy.astype(mx.float32) * weight.astype(mx.float32)
    valid = _valid(position)
    value = mx.where(valid, value, 0.0)
    surface = _sum_by_cell(cell, splat * value, energy.shape[0], height * width)
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
    batch, cells = energy.shape[0], height * width
    cell, splat = _splats(position, height, width, mode, boundary)  # [4, B, F]
    score = score.astype(mx.float32)
    valid = mx.logical_and(_valid(position), score > -mx.inf)
    score = mx.where(valid, score, 0.0)
    splat = mx.where(valid, splat, 0.0)
    row = mx.arange(batch)[:, None]  # [B, 1]
    # Only cells that a flow truly touches may raise the maximum.
    touched = mx.where(splat > 0, mx.stop_gradient(score), -mx.inf)
    top = mx.full((batch, cells), -mx.inf).at[row, cell].maximum(touched)
    top = mx.stop_gradient(mx.where(top > -mx.inf, top, 0.0))
    p = mx.where(splat > 0, mx.exp(mx.minimum(score - top[row, cell], 0.0)), 0.0)
    total = _sum_by_cell(cell, splat * p, batch, cells)
    value = _sum_by_cell(cell, splat * p * energy.astype(mx.float32), batch, cells)
    mass = mx.minimum(_sum_by_cell(cell, splat, batch, cells), 1.0)
    surface = mass * value / (total + 1e-12)
    return surface.reshape(-1, height, width).astype(energy.dtype)


def _valid(position: mx.array) -> mx.array:
    return mx.logical_not(mx.isnan(position[..., :2]).any(axis=-1))  # [B, F]


def _grid_coordinate(u: mx.array, size: int, boundary: Boundary) -> mx.array:
    """Coordinate in [-1, 1] as a real cell number in [0, size - 1]."""
    u = u.astype(mx.float32)
    if boundary == "fold":
        u = mx.where(u > 1, 2 - u, mx.where(u < -1, -2 - u, u))
    u = mx.where(u >= -1, u, -1.0)  # NaN falls to -1; its flow is dropped
    u = mx.where(u <= 1, u, 1.0)
    return (u + 1) * 0.5 * (size - 1)


def _splats(
    position: mx.array, height: int, width: int, mode: Mode, boundary: Boundary
) -> tuple[mx.array, mx.array]:
    """Cell numbers and shares of every flow, both ``[1 or 4, B, F]``."""
    gx = _grid_coordinate(position[..., 0], width, boundary)
    gy = _grid_coordinate(position[..., 1], height, boundary)
    if mode == "nearest":
        cell = mx.round(gy).astype(mx.int32) * width + mx.round(gx).astype(mx.int32)
        cell = mx.stop_gradient(cell)[None]
        return cell, mx.ones(cell.shape)
    x0 = mx.stop_gradient(mx.clip(mx.floor(gx), 0, max(width - 2, 0)))
    y0 = mx.stop_gradient(mx.clip(mx.floor(gy), 0, max(height - 2, 0)))
    fx, fy = gx - x0, gy - y0
    base = y0.astype(mx.int32) * width + x0.astype(mx.int32)
    right, down = min(1, width - 1), min(1, height - 1) * width
    cell = mx.stack([base, base + right, base + down, base + right + down])
    splat = mx.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    return cell, splat


def _sum_by_cell(cell: mx.array, value: mx.array, batch: int, cells: int) -> mx.array:
    row = mx.arange(batch)[:, None]
    return mx.zeros((batch, cells)).at[row, cell].add(value)


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

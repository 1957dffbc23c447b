"""Coordinates of the cube: normalized positions, cells, borders and planes.

A lattice has W x H cells per face and D + 1 levels along z. Cell number i of n maps
to ``2 i / (n - 1) - 1`` in [-1, 1]. A surface is stored row by row: y is the row, x
the column, and cell ``s = iy * W + ix``. Flows start on the plane of level D // 2,
which is z = 0 only when D is even; the output planes are z = -1 and z = +1.
"""

import mlx.core as mx

FACE_NEAR = -1.0
FACE_FAR = 1.0
# Rounding may leave a flow this far from the plane it was sent to.
PLANE_TOLERANCE = 1e-5


def normalize(index: mx.array, count: int) -> mx.array:
    """Map cell numbers [0, count - 1] to [-1, 1]; ``count >= 2``."""
    return 2.0 * index / (count - 1) - 1.0


def denormalize(coordinate: mx.array, count: int) -> mx.array:
    """Inverse of ``normalize``, a real cell number."""
    return (coordinate + 1.0) * 0.5 * (count - 1)


def cells_across(length: mx.array, width: int) -> mx.array:
    """A length of the cube, in cells along x; ``width`` is their count W."""
    return length * ((width - 1) / 2)


def quantize(coordinate: mx.array, count: int) -> mx.array:
    """Nearest cell number in [0, count - 1], int32; ties go to the even number."""
    cell = mx.round(denormalize(coordinate, count))
    return mx.clip(cell, 0, count - 1).astype(mx.int32)


def cell_index(position: mx.array, width: int, height: int) -> mx.array:
    """Surface cell ``iy * W + ix`` of positions ``[..., 2 or more]``, int32."""
    column = quantize(position[..., 0], width)
    return quantize(position[..., 1], height) * width + column


def fold(coordinate: mx.array) -> mx.array:
    """Reflect at the borders -1 and 1 what crossed them, once.

    One fold suffices for moves shorter than 2; what is left outside is clipped.
    """
    folded = mx.where(coordinate > 1.0, 2.0 - coordinate, coordinate)
    folded = mx.where(coordinate < -1.0, -2.0 - coordinate, folded)
    return mx.clip(folded, -1.0, 1.0)


def straight_through(value: mx.array, source: mx.array) -> mx.array:
    """``value`` exactly, with the gradient of ``source``; both of one shape."""
    return mx.stop_gradient(value) + (source - mx.stop_gradient(source))


def start_level(depth: int) -> float:
    """Normalized z of the input plane, level ``depth // 2``."""
    return 2.0 * (depth // 2) / depth - 1.0


def launch_positions(width: int, height: int, depth: int) -> mx.array:
    """Start of the flow of every cell, ``[S, 3]``, on the input plane."""
    x = mx.broadcast_to(normalize(mx.arange(width), width), (height, width))
    y = mx.broadcast_to(normalize(mx.arange(height), height)[:, None], (height, width))
    z = mx.full((height, width), start_level(depth))
    return mx.stack([x, y, z], axis=-1).reshape(-1, 3)


def cell_parity(width: int, height: int) -> mx.array:
    """+1 and -1 over the cells like a chessboard, ``[S]``; +1 in the corner (0, 0)."""
    odd = (mx.arange(width) + mx.arange(height)[:, None]) % 2
    return (1.0 - 2.0 * odd).reshape(-1)


def plane_distance(z: mx.array, *, is_dual: bool) -> mx.array:
    """Normalized distance to the nearest output plane."""
    far = mx.abs(FACE_FAR - z)
    return mx.minimum(mx.abs(z - FACE_NEAR), far) if is_dual else far


def nearest_plane(z: mx.array, *, is_dual: bool) -> mx.array:
    """Level of the nearest output plane; a tie goes to z = -1."""
    if not is_dual:
        return mx.full(z.shape, FACE_FAR)
    return mx.where(z > 0.0, FACE_FAR, FACE_NEAR)

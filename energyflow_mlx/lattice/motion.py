"""Where a flow goes in one step: drift, learned move, noise, borders and faces.

Every flow travels to one face of z. The drift takes it there in the steps that are
left, so that it arrives whatever the carrier has learned; the carrier bends the path
sideways, chooses the face by the sign of the flow's first z output, and may hurry.
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.geometry import (
    FACE_FAR,
    FACE_NEAR,
    PLANE_TOLERANCE,
    fold,
)


class Move(NamedTuple):
    """One step of every flow, before dead flows are masked out.

    Attributes:
        position: Where it ends, inside the cube, ``[B, F, 3]``.
        face: The face it heads for, -1 or +1, ``[B, F]``.
        reached: The face it has reached, -1 or +1, or 0, ``[B, F]``.
    """

    position: mx.array
    face: mx.array
    reached: mx.array


def move_flows(
    config: LatticeConfig,
    position: mx.array,
    face: mx.array,
    is_first: mx.array,
    output: mx.array,
    *,
    pace: float | mx.array,
    scale: float | mx.array,
    noise: mx.array | None,
) -> Move:
    """Move every flow by one step.

    learned = bound * tanh(scale * output)
    dz = face * (max(1 / T, pace * way) + max(0, face * learned_z))   with drift
    dz = learned_z                                                 without drift

    Args:
        config: Of the lattice.
        position: Inside the cube, ``[B, F, 3]``.
        face: Face each flow heads for so far, ``[B, F]``.
        is_first: Flows that make their first step, and so choose their face.
        output: Of the displacement head, ``[B, F, 3]``.
        pace: One over the steps until the end, this one included.
        scale: Factor on the head's output.
        noise: Random move in normalised units, ``[B, F, 3]``, or None.
    """
    if config.freeze_displacement:
        output = mx.stop_gradient(output)
    learned = config.displacement_bound * mx.tanh(scale * output)
    side, along = learned[..., :2], learned[..., 2]
    if config.z_drift:
        face = _choose_face(config, face, is_first, along)
        dz = face * _forward(config, position[..., 2], face, along, pace)
    else:
        dz = along
    if noise is not None:
        side = side + noise[..., :2]
        if config.exploration_noise_on_z:
            dz = dz + noise[..., 2]
    raw = position + mx.concatenate([side, dz[..., None]], axis=-1)
    return _settle(config, raw, face)


def _choose_face(
    config: LatticeConfig, face: mx.array, is_first: mx.array, along: mx.array
) -> mx.array:
    if config.output_planes == "far":
        return mx.full(face.shape, FACE_FAR)
    is_clear = mx.abs(along) > config.face_tie * config.displacement_bound
    chooses = mx.logical_and(is_first, is_clear)
    return mx.stop_gradient(mx.where(chooses, mx.sign(along), face))


def _forward(
    config: LatticeConfig,
    z: mx.array,
    face: mx.array,
    along: mx.array,
    pace: float | mx.array,
) -> mx.array:
    """Advance towards the face: what is needed to arrive, and what hurries it."""
    way = mx.abs(face - mx.stop_gradient(z))
    drift = mx.maximum(pace * way, 1.0 / config.total_steps)
    towards = face * along
    # ``>=``: at a zero-initialised head the gradient must still flow.
    return drift + mx.where(towards >= 0.0, towards, 0.0)


def _settle(config: LatticeConfig, raw: mx.array, face: mx.array) -> Move:
    """Borders of x and y first, then z, then the faces: one final position."""
    side = raw[..., :2]
    side = fold(side) if config.reflect else mx.clip(side, FACE_NEAR, FACE_FAR)
    is_dual = config.output_planes == "dual"
    # Only an output plane stops a flow; the closed one reflects it.
    z = mx.clip(raw[..., 2], FACE_NEAR, FACE_FAR) if is_dual else fold_near(raw[..., 2])
    reached = mx.where(z >= FACE_FAR - PLANE_TOLERANCE, FACE_FAR, 0.0)
    if is_dual:
        reached = mx.where(z <= FACE_NEAR + PLANE_TOLERANCE, FACE_NEAR, reached)
    z = mx.where(reached != 0.0, reached, z)
    position = mx.concatenate([side, z[..., None]], axis=-1)
    return Move(position, face, mx.stop_gradient(reached))


def fold_near(z: mx.array) -> mx.array:
    """Reflect at z = -1 and stop at z = +1."""
    return mx.clip(mx.where(z < FACE_NEAR, -2.0 - z, z), FACE_NEAR, FACE_FAR)

"""Where a flow goes in one step: drift, learned move, noise, borders and faces.

Every flow travels to one face of z. The drift takes it there in the steps that are
left, so that it arrives whatever the carrier has learned; the carrier bends the path
sideways, chooses the face by the sign of the flow's first z output, and may hurry.
The schedules of the learned move's scale and of the noise stand here too.
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.geometry import (
    FACE_FAR,
    FACE_NEAR,
    PLANE_TOLERANCE,
    fold,
    straight_through,
)
from energyflow_mlx.lattice.state import FlowState


def displacement_scale(config: LatticeConfig, step: int) -> float:
    """Factor on the displacement head's output at a training step.

    ``max(scale * decay ** floor((step - warmup) / interval), scale_min)``, constant
    during the warm-up. Evaluation uses ``motion.scale_min``.

    Args:
        config: Settings of the lattice.
        step: Training step, from 0.
    """
    motion = config.motion
    if step < motion.warmup:
        return motion.scale
    intervals = (step - motion.warmup) // motion.interval
    return max(motion.scale * motion.decay**intervals, motion.scale_min)


def exploration_sigma(config: LatticeConfig, step: int) -> float:
    """Standard deviation of the exploration noise at a training step.

    Falls linearly from ``noise.sigma`` to 0 over ``noise.steps``, or stays constant
    when those are 0. Evaluation has no noise.

    Args:
        config: Settings of the lattice.
        step: Training step, from 0.
    """
    noise = config.noise
    if noise.steps == 0:
        return noise.sigma
    return noise.sigma * max(0.0, 1.0 - step / noise.steps)


class StepControls(NamedTuple):
    """What acts on all flows alike in one step.

    Attributes:
        pace: One over the steps until the end, this one included.
        scale: Factor on the displacement head's output.
        noise: Random move in normalized units, ``[B, F, 3]``, or None.
    """

    pace: float | mx.array
    scale: float | mx.array
    noise: mx.array | None


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
    config: LatticeConfig, state: FlowState, output: mx.array, controls: StepControls
) -> Move:
    """Move every flow by one step.

    learned = bound * tanh(scale * output)
    dz = face * (max(1 / T, pace * left) + max(0, face * learned_z))  with drift
    dz = learned_z                                                  without drift

    ``left`` is the distance along z to the flow's face. Flows of age 0 choose their
    face.

    Args:
        config: Settings of the lattice.
        state: Before the step; its positions, faces and ages are read.
        output: What the displacement head gives, ``[B, F, 3]``.
        controls: Pace, scale and noise of the step.

    Returns:
        Positions, faces and arrivals after it.
    """
    motion, face = config.motion, state.face
    if motion.freeze:
        output = mx.stop_gradient(output)
    # tanh, not a clip: a move beyond the bound keeps a gradient.
    learned = motion.bound * mx.tanh(controls.scale * output)
    side, along = learned[..., :2], learned[..., 2]  # [B, F, 2] and [B, F]
    if motion.z_drift:
        face = _choose_face(config, state, along)
        dz = face * _advance(config, state, face, along, controls.pace)
    else:
        dz = along
    if controls.noise is not None:
        side = side + controls.noise[..., :2]
        if config.noise.on_z:
            dz = dz + controls.noise[..., 2]
    raw = state.position + mx.concatenate([side, dz[..., None]], axis=-1)
    return _settle(config, raw, face)


def _choose_face(config: LatticeConfig, state: FlowState, along: mx.array) -> mx.array:
    """The face every flow heads for; with separate faces it has a gradient.

    The sign's own gradient is zero: that of the z output itself stands in for it, also
    where the output is too short to choose (straight-through; Bengio et al.,
    "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).
    """
    if not config.cube.is_dual:
        return mx.full(state.face.shape, FACE_FAR)
    is_clear = mx.abs(along) > config.motion.face_tie * config.motion.bound
    # Children of the learned rule are settled, and their face with them.
    is_new = mx.logical_and(state.age == 0.0, mx.logical_not(state.settled))
    chooses = mx.logical_and(is_new, is_clear)
    face = mx.stop_gradient(mx.where(chooses, mx.sign(along), state.face))
    if not config.readout.tells_faces_apart:
        return face
    soft = mx.where(is_new, along / config.motion.bound, state.face)
    return straight_through(face, soft)


def _advance(
    config: LatticeConfig,
    state: FlowState,
    face: mx.array,
    along: mx.array,
    pace: float | mx.array,
) -> mx.array:
    """Advance towards the face: what is needed to arrive, and what hurries it."""
    # To choose the other face turns the advance round; it does not make it longer.
    face = mx.stop_gradient(face)
    left = mx.abs(face - mx.stop_gradient(state.position[..., 2]))
    drift = mx.maximum(pace * left, 1.0 / config.total_steps)
    towards = face * along
    # ``>=``: at a zero-initialized head the gradient must still pass.
    return drift + mx.where(towards >= 0.0, towards, 0.0)


def _settle(config: LatticeConfig, raw: mx.array, face: mx.array) -> Move:
    """Borders of x and y first, then z, then the faces: one final position."""
    side, is_dual = raw[..., :2], config.cube.is_dual
    reflects = config.motion.reflect
    side = fold(side) if reflects else mx.clip(side, FACE_NEAR, FACE_FAR)
    # Only an output plane stops a flow; the closed one reflects it.
    z = mx.clip(raw[..., 2], FACE_NEAR, FACE_FAR) if is_dual else fold_near(raw[..., 2])
    reached = mx.where(z >= FACE_FAR - PLANE_TOLERANCE, FACE_FAR, 0.0)
    if is_dual:
        reached = mx.where(z <= FACE_NEAR + PLANE_TOLERANCE, FACE_NEAR, reached)
    z = mx.where(reached != 0.0, reached, z)
    if config.readout.tells_faces_apart:
        # Else a face that stops a flow would hide the choice of it.
        z = straight_through(z, raw[..., 2])
    position = mx.concatenate([side, z[..., None]], axis=-1)
    return Move(position, face, mx.stop_gradient(reached))


def fold_near(z: mx.array) -> mx.array:
    """Reflect at z = -1 and stop at z = +1."""
    return mx.clip(mx.where(z < FACE_NEAR, -2.0 - z, z), FACE_NEAR, FACE_FAR)

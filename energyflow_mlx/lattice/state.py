"""The flows of a batch as arrays: their state, its start and its end.

A flow is a point with an energy that travels through the cube. Every cell of the
input surface launches one; a flow that moves far may spawn children into the spare
slots. All flows of all samples are rows of the same arrays, whose shapes never
change, and no Python object or loop stands for a single flow. Dead flows (arrived,
or slots never used) keep their values.
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.lattice.carrier import MEMORY_SLOTS
from energyflow_mlx.lattice.geometry import (
    cell_parity,
    launch_positions,
    nearest_plane,
    plane_distance,
    straight_through,
)
from energyflow_mlx.ops.flow_carry import States, sanitize


class FlowState(NamedTuple):
    """All flow slots of a batch; F = S + spawn slots.

    Attributes:
        position: Inside the cube, ``[B, F, 3]``.
        energy: ``[B, F]``.
        hidden: State of every GRU layer, ``[B, F, Hc]`` each; ``()`` before the first
            step, which stands for zeros.
        memory: The five newest positions, newest first, zeros where there is none
            yet, ``[B, F, 15]``.
        face: Face the flow heads for, -1 or +1, ``[B, F]``.
        alive: Still travelling, ``[B, F]`` bool.
        exists: Slot in use, ``[B, F]`` bool.
        age: Steps taken, ``[B, F]`` float32.
        reached: Face reached by itself, -1 or +1, else 0, ``[B, F]``.
        gap: Distance to its plane before it was projected there, ``[B, F]``.
        path: Length of the path travelled, ``[B, F]``.
        origin: x and y where it began, ``[B, F, 2]``.
        weight: Its part in the readout: 1, or the score a child was born with,
            ``[B, F]``.
        settled: Chooses no face and has no child any more, by the learned rule: it
            has one or is one, ``[B, F]`` bool.
    """

    position: mx.array
    energy: mx.array
    hidden: States
    memory: mx.array
    face: mx.array
    alive: mx.array
    exists: mx.array
    age: mx.array
    reached: mx.array
    gap: mx.array
    path: mx.array
    origin: mx.array
    weight: mx.array
    settled: mx.array


class FlowOptions(NamedTuple):
    """What the propagation of a batch may vary from call to call.

    Attributes:
        scale: Factor on the displacement head's output.
        sigma: Standard deviation of the exploration noise.
        key: Random key of the noise; None = no noise.
    """

    scale: float | mx.array = 1.0
    sigma: float | mx.array = 0.0
    key: mx.array | None = None


def launch(config: LatticeConfig, surface: mx.array) -> FlowState:
    """Start the flows of every cell of the surfaces, on the input plane.

    Args:
        config: Settings of the lattice.
        surface: Energies, ``[B, H, W]``; NaN counts as 0.

    Returns:
        State before the first step; the spare slots do not exist yet.

    Raises:
        ValueError: The surface has another size.
        InputError: The batch needs more flow slots than ``cube.max_active_flows``.
    """
    cube = config.cube
    if surface.ndim != 3 or surface.shape[1:] != (cube.height, cube.width):
        raise ValueError(
            f"[lattice] surface must be [B, {cube.height}, {cube.width}], "
            f"got {list(surface.shape)}."
        )
    check_flow_count(config, surface.shape[0])
    batch, cells = surface.shape[0], config.surface_size
    spare = config.spawn.slots_of(cells)
    shape = (batch, config.slots)
    energy = sanitize(surface.astype(mx.float32).reshape(batch, cells))
    start = launch_positions(cube.width, cube.height, cube.depth)
    position = _every_sample(mx.pad(start, ((0, spare), (0, 0))), batch)
    lean = cell_parity(cube.width, cube.height)
    lean = mx.pad(lean, (0, spare), constant_values=1.0)
    in_use = _every_sample(mx.arange(config.slots) < cells, batch)
    zeros = mx.contiguous(mx.zeros(shape))
    return FlowState(
        position=position,
        energy=mx.pad(energy, ((0, 0), (0, spare))),
        hidden=(),
        memory=remember(mx.zeros((*shape, 3 * MEMORY_SLOTS)), position),
        face=_every_sample(lean, batch),
        alive=in_use,
        exists=in_use,
        age=zeros,
        reached=zeros,
        gap=zeros,
        path=zeros,
        origin=position[..., :2],
        weight=mx.contiguous(mx.ones(shape)),
        settled=mx.zeros(shape, dtype=mx.bool_),
    )


def _every_sample(a: mx.array, batch: int) -> mx.array:
    """Repeat an array for every sample.

    Laid out in full, so that the first step runs the fused loops of the others.
    """
    return mx.contiguous(mx.broadcast_to(a, (batch, *a.shape)))


def remember(memory: mx.array, position: mx.array) -> mx.array:
    """Put the newest position first; the oldest of five falls out.

    Args:
        memory: The five newest positions so far, ``[B, F, 15]``.
        position: ``[B, F, 3]``.

    Returns:
        ``[B, F, 15]``.
    """
    return mx.concatenate([position, memory[..., : 3 * (MEMORY_SLOTS - 1)]], axis=-1)


def check_flow_count(config: LatticeConfig, batch: int) -> None:
    """Refuse a batch that needs more flow slots than allowed.

    Args:
        config: Settings of the lattice.
        batch: Samples B.

    Raises:
        InputError: It does.
    """
    flows, most = batch * config.slots, config.cube.max_active_flows
    if flows > most:
        raise InputError(
            f"[lattice] batch x flow slots must be <= max_active_flows = "
            f"{most}, got {batch} x {config.slots} = {flows}."
        )


def land(config: LatticeConfig, state: FlowState) -> FlowState:
    """Project every flow that still travels to its nearest output plane.

    Args:
        config: Settings of the lattice.
        state: After the last step.

    Returns:
        State in which no flow travels any more.
    """
    is_dual = config.cube.is_dual
    z = state.position[..., 2]
    gap = mx.where(state.alive, plane_distance(z, is_dual=is_dual), state.gap)
    landed = mx.where(state.alive, nearest_plane(z, is_dual=is_dual), z)
    z = straight_through(landed, z) if config.readout.tells_faces_apart else landed
    position = mx.concatenate([state.position[..., :2], z[..., None]], axis=-1)
    return state._replace(position=position, gap=gap, alive=mx.zeros_like(state.alive))

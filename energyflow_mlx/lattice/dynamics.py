"""The flows of a batch as arrays: ``launch``, one pure step, ``land``.

A flow is a point with an energy that travels through the cube. Every cell of the
input surface launches one; a flow that moves far may spawn children into the spare
slots. All flows of all samples are rows of the same arrays, whose shapes never
change, and no Python object or loop stands for a single flow. Dead flows (arrived,
or slots never used) keep their values.
"""

from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.carrier import (
    MEMORY_SLOTS,
    EnergyCarrier,
    Hidden,
    MergedHeads,
    sanitise,
)
from energyflow_mlx.lattice.geometry import (
    cell_parity,
    launch_positions,
    nearest_plane,
    plane_distance,
)
from energyflow_mlx.lattice.motion import move_flows
from energyflow_mlx.lattice.neuron import MergedEntry, SimpleNeuron
from energyflow_mlx.lattice.spawn import (
    assign_slots,
    count_children,
    inherit,
    place_children,
    plan_births,
    take_parents,
)


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
        path: Length of the way travelled, ``[B, F]``.
        origin: x and y where it began, ``[B, F, 2]``.
    """

    position: mx.array
    energy: mx.array
    hidden: Hidden
    memory: mx.array
    face: mx.array
    alive: mx.array
    exists: mx.array
    age: mx.array
    reached: mx.array
    gap: mx.array
    path: mx.array
    origin: mx.array


def launch(config: LatticeConfig, surface: mx.array) -> FlowState:
    """Flows of every cell of the surfaces, on the input plane.

    Args:
        config: Of the lattice.
        surface: Energies, ``[B, H, W]``; NaN counts as 0.

    Raises:
        ValueError: The surface has another size, or the batch needs more flow slots
            than ``max_active_flows``.
    """
    if surface.ndim != 3 or surface.shape[1:] != (config.height, config.width):
        raise ValueError(
            f"[lattice] surface must be [B, {config.height}, {config.width}], "
            f"got {list(surface.shape)}."
        )
    check_flow_count(config, surface.shape[0])
    batch, cells, spare = surface.shape[0], config.surface_size, config.spawn_slots
    shape = (batch, config.slots)
    energy = sanitise(surface.astype(mx.float32).reshape(batch, cells))
    start = launch_positions(config.width, config.height, config.depth)
    position = _every_sample(mx.pad(start, ((0, spare), (0, 0))), batch)
    lean = cell_parity(config.width, config.height)
    lean = mx.pad(lean, (0, spare), constant_values=1.0)
    in_use = _every_sample(mx.arange(config.slots) < cells, batch)
    zeros = mx.contiguous(mx.zeros(shape))
    return FlowState(
        position=position,
        energy=mx.pad(energy, ((0, 0), (0, spare))),
        hidden=(),
        memory=_remember(mx.zeros((*shape, 3 * MEMORY_SLOTS)), position),
        face=_every_sample(lean, batch),
        alive=in_use,
        exists=in_use,
        age=zeros,
        reached=zeros,
        gap=zeros,
        path=zeros,
        origin=position[..., :2],
    )


def _every_sample(a: mx.array, batch: int) -> mx.array:
    """Repeat an array for every sample.

    Laid out in full, so that the first step runs the fused loops of the others.
    """
    return mx.contiguous(mx.broadcast_to(a, (batch, *a.shape)))


def check_flow_count(config: LatticeConfig, batch: int) -> None:
    """Refuse a batch that needs more flow slots than allowed.

    Raises:
        ValueError: It does.
    """
    flows = batch * config.slots
    if flows > config.max_active_flows:
        raise ValueError(
            f"[lattice] batch x flow slots must be <= max_active_flows = "
            f"{config.max_active_flows}, got {batch} x {config.slots} = {flows}."
        )


def land(config: LatticeConfig, state: FlowState) -> FlowState:
    """Project every flow that still travels to its nearest output plane."""
    is_dual = config.output_planes == "dual"
    z = state.position[..., 2]
    gap = mx.where(state.alive, plane_distance(z, is_dual=is_dual), state.gap)
    z = mx.where(state.alive, nearest_plane(z, is_dual=is_dual), z)
    position = mx.concatenate([state.position[..., :2], z[..., None]], axis=-1)
    return state._replace(position=position, gap=gap, alive=mx.zeros_like(state.alive))


class Phase(NamedTuple):
    """What one step does beside moving the flows, by its number.

    Attributes:
        pace: One over the steps until the end, this one included, scalar.
        spawns: Children may be born.
        cuts: The recurrence's gradient ends here.
    """

    pace: mx.array
    spawns: bool
    cuts: bool


def phase(config: LatticeConfig, index: int) -> Phase:
    """Phase of step ``index``, from 0."""
    # Cut from an array: a constant would make each step's fused loops unlike others.
    left = mx.arange(config.total_steps, 0, -1, dtype=mx.float32)
    is_last = index == config.total_steps - 1
    every = config.truncate_every
    return Phase(
        pace=1.0 / left[index],
        spawns=config.spawn_slots > 0 and not is_last,
        cuts=every > 0 and index > 0 and index % every == 0,
    )


class Merged(NamedTuple):
    """Weights of a step that are products of others, the same for every step.

    Attributes:
        entry: Of the neuron.
        heads: Of the carrier.
    """

    entry: MergedEntry
    heads: MergedHeads


class FlowStep(nn.Module):
    """One propagation step: the neuron and the carrier that all flows share."""

    def __init__(self, config: LatticeConfig) -> None:
        """Create neuron and carrier."""
        super().__init__()
        self.neuron = SimpleNeuron(config.neuron_hidden, config.neuron_features)
        self.carrier = EnergyCarrier(
            config.neuron_features,
            config.carrier_hidden,
            config.carrier_layers,
            gru_float32=config.gru_float32,
            displacement_start=config.displacement_start,
        )
        self._config = config

    def merged(self) -> Merged:
        """Merge weights once for all steps."""
        return Merged(self.neuron.merged(), self.carrier.merged())

    def __call__(
        self,
        state: FlowState,
        phase: Phase,
        *,
        scale: float | mx.array = 1.0,
        noise: mx.array | None = None,
        merged: Merged | None = None,
    ) -> FlowState:
        """Advance every living flow by one step; a pure function.

        Args:
            state: Before the step.
            phase: Of the step.
            scale: Factor on the displacement head's output.
            noise: Random move, ``[B, F, 3]``, or None.
            merged: Of ``merged``; None merges now.
        """
        config, merged = self._config, merged or self.merged()
        seen = _cut(state) if phase.cuts else state
        output, energy, hidden = self._carry(seen, state.energy, merged)
        move = move_flows(
            config,
            state.position,
            state.face,
            state.age == 0.0,
            output,
            pace=phase.pace,
            scale=scale,
            noise=noise,
        )
        alive = state.alive
        length = _length(move.position - state.position)
        position = mx.where(alive[..., None], move.position, state.position)
        reached = mx.where(alive, move.reached, state.reached)
        moved = state._replace(
            position=position,
            energy=mx.where(alive, energy, state.energy),
            hidden=hidden,
            memory=_remember(state.memory, position),
            face=mx.where(alive, move.face, state.face),
            alive=mx.logical_and(alive, move.reached == 0.0),
            age=state.age + alive,
            reached=reached,
            path=state.path + mx.where(alive, length, 0.0),
        )
        return _spawn(config, state, moved, length) if phase.spawns else moved

    def _carry(
        self, seen: FlowState, energy: mx.array, merged: Merged
    ) -> tuple[mx.array, mx.array, Hidden]:
        """Displacement output ``[B, F, 3]``, new energy ``[B, F]``, new hidden."""
        config, shape = self._config, energy.shape
        rows = energy.size
        column = seen.energy.reshape(rows, 1)
        features = self.neuron(seen.position.reshape(rows, 3), column, merged.entry)
        hidden = tuple(h.reshape(rows, -1) for h in seen.hidden)
        memory = seen.memory.reshape(rows, -1)
        carried = self.carrier(features, column, memory, hidden, merged.heads)
        change = mx.tanh(carried.energy.reshape(shape))
        if config.energy_update == "residual":
            change = energy + change / config.total_steps
        hidden = tuple(h.reshape(*shape, -1) for h in carried.hidden)
        return carried.move.reshape(*shape, 3), change, hidden


def _remember(memory: mx.array, position: mx.array) -> mx.array:
    """Put the newest position first; the oldest of five falls out."""
    return mx.concatenate([position, memory[..., : 3 * (MEMORY_SLOTS - 1)]], axis=-1)


def _length(move: mx.array) -> mx.array:
    """Length of moves ``[B, F, 3]``; a measurement, so without gradient."""
    move = mx.stop_gradient(move)
    return mx.sqrt((move * move).sum(axis=-1))


def _cut(state: FlowState) -> FlowState:
    """What the carrier sees at a truncation point: it passes no gradient back.

    The sums that make up position and energy are not cut, else nothing before the
    last cut would learn.
    """
    return state._replace(
        position=mx.stop_gradient(state.position),
        energy=mx.stop_gradient(state.energy),
        memory=mx.stop_gradient(state.memory),
        hidden=tuple(mx.stop_gradient(h) for h in state.hidden),
    )


def _spawn(
    config: LatticeConfig, before: FlowState, after: FlowState, length: mx.array
) -> FlowState:
    """Fill free slots with children of flows that moved far and still travel.

    A child starts where its parent was before the move, with the energy and hidden
    state its parent has after it.
    """
    wanted = count_children(config, length, after.alive)
    births = plan_births(config, assign_slots(config, wanted, after.exists))
    place, is_new = partial(place_children, births), births.is_new
    start = take_parents(births, before.position)  # [B, M, 3]
    unknown = [(0, 0), (0, 0), (0, 3 * (MEMORY_SLOTS - 1))]
    return after._replace(
        position=place(after.position, start),
        energy=inherit(births, after.energy),
        hidden=tuple(inherit(births, h) for h in after.hidden),
        memory=place(after.memory, mx.pad(start, unknown)),
        face=inherit(births, after.face),
        alive=mx.logical_or(after.alive, is_new),
        exists=mx.logical_or(after.exists, is_new),
        age=mx.where(is_new, 0.0, after.age),
        path=mx.where(is_new, 0.0, after.path),
        origin=place(after.origin, start[..., :2]),
    )

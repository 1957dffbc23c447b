"""One propagation step of all flows: neuron, carrier, move, spawn; a pure function."""

from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.carrier import MEMORY_SLOTS, EnergyCarrier
from energyflow_mlx.lattice.field import Medium
from energyflow_mlx.lattice.geometry import cells_across
from energyflow_mlx.lattice.motion import StepControls, move_flows
from energyflow_mlx.lattice.neuron import SimpleNeuron
from energyflow_mlx.lattice.spawn import (
    assign_slots,
    choose_parents,
    count_children,
    inherit,
    place_children,
    plan_births,
    take_parents,
)
from energyflow_mlx.lattice.state import FlowState, remember
from energyflow_mlx.ops.flow_carry import CarryWeights, States, flow_carry


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
    """What step ``index`` does, from 0.

    Args:
        config: Settings of the lattice.
        index: Number of the step.
    """
    # Cut from an array: a constant would make each step's fused loops unlike others.
    left = mx.arange(config.total_steps, 0, -1, dtype=mx.float32)
    is_last = index == config.total_steps - 1
    every = config.adjoint.truncate_every
    return Phase(
        pace=1.0 / left[index],
        spawns=config.spare_slots > 0 and not is_last,
        cuts=every > 0 and index > 0 and index % every == 0,
    )


class FlowStep(nn.Module):
    """One propagation step: the neuron and the carrier that all flows share."""

    def __init__(self, config: LatticeConfig) -> None:
        """Create neuron and carrier."""
        super().__init__()
        carrier = config.carrier
        self.neuron = SimpleNeuron(carrier.neuron_hidden, carrier.neuron_features)
        start, lean = config.motion.start, config.motion.lean
        self.carrier = EnergyCarrier(carrier, start=start, lean=lean)
        if config.spawn.is_learned:
            self.birth = nn.Linear(carrier.hidden, 1)
        if config.field.cells:
            self.medium = Medium(config)
        self._config = config

    def fused(self) -> CarryWeights:
        """Weights as a step uses them, some fused; computed once for all steps."""
        return CarryWeights(self.neuron.fused(), *self.carrier.fused())

    def __call__(
        self,
        state: FlowState,
        phase: Phase,
        *,
        scale: float | mx.array = 1.0,
        noise: mx.array | None = None,
        fused: CarryWeights | None = None,
    ) -> FlowState:
        """Advance every living flow by one step; a pure function.

        Args:
            state: Before the step.
            phase: What the step does beside moving.
            scale: Factor on the displacement head's output.
            noise: Random move, ``[B, F, 3]``, or None.
            fused: What ``fused`` gives; None computes it now.
        """
        fused = fused or self.fused()
        seen = _cut(state) if phase.cuts else state
        if self._config.field.cells:
            seen = seen._replace(hidden=self.medium(seen))
        output, energy, hidden = self._carry(seen, state.energy, fused)
        controls = StepControls(phase.pace, scale, noise)
        move = move_flows(self._config, state, output, controls)
        alive = state.alive
        length = _length(move.position - state.position)
        # Arrays keep their shape: dead flows are computed too, and masked out here.
        position = mx.where(alive[..., None], move.position, state.position)
        reached = mx.where(alive, move.reached, state.reached)
        moved = state._replace(
            position=position,
            energy=mx.where(alive, energy, state.energy),
            hidden=hidden,
            memory=remember(state.memory, position),
            face=mx.where(alive, move.face, state.face),
            alive=mx.logical_and(alive, move.reached == 0.0),
            age=state.age + alive,
            reached=reached,
            path=state.path + mx.where(alive, length, 0.0),
        )
        if not phase.spawns:
            return moved
        if self._config.spawn.is_learned:
            score = mx.sigmoid(self.birth(hidden[-1].astype(mx.float32))[..., 0])
            return _spawn_best(self._config, state, moved, score)
        return _spawn_far(self._config, state, moved, length)

    def _carry(
        self, seen: FlowState, energy: mx.array, fused: CarryWeights
    ) -> tuple[mx.array, mx.array, States]:
        """Displacement output ``[B, F, 3]``, new energy ``[B, F]``, new hidden."""
        config, shape = self._config, energy.shape
        # Flows share all weights, so every flow of every sample is a row: one product.
        rows = energy.size  # N = B * F
        carried = flow_carry(
            seen.position.reshape(rows, 3),
            seen.energy.reshape(rows),
            seen.memory.reshape(rows, -1),
            tuple(h.reshape(rows, -1) for h in seen.hidden),
            fused,
        )
        out = carried.out.reshape(*shape, -1)
        change = mx.tanh(out[..., 0])
        if config.carrier.energy_update == "residual":
            change = energy + change / config.total_steps
        hidden = tuple(h.reshape(*shape, -1) for h in carried.states)
        return out[..., 1:], change, hidden


def advance_flows(
    step: FlowStep,
    spawns: bool,
    cuts: bool,
    state: tuple,
    controls: tuple,
    fused: CarryWeights | None = None,
) -> tuple:
    """Take one step with plain tuples, as MLX's transformations want them.

    Args:
        step: Neuron and carrier.
        spawns: Children may be born; see ``Phase``.
        cuts: The recurrence's gradient ends here; see ``Phase``.
        state: Arrays of a ``FlowState``.
        controls: Arrays of ``StepControls``.
        fused: As in ``FlowStep``.

    Returns:
        Arrays of the ``FlowState`` after the step.
    """
    pace, scale, noise = controls
    now = Phase(pace, spawns, cuts)
    return tuple(step(FlowState(*state), now, scale=scale, noise=noise, fused=fused))


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


def _spawn_far(
    config: LatticeConfig, before: FlowState, after: FlowState, length: mx.array
) -> FlowState:
    """Fill free slots with children of flows that moved far and still travel."""
    if config.spawn.unit == "cells":
        side = (after.position - before.position)[..., :2]
        length = cells_across(_length(side), config.cube.width)
    wanted = count_children(config.spawn, length, after.alive)  # [B, F]
    return _bear(config, before, after, assign_slots(config, wanted, after.exists))


def _spawn_best(
    config: LatticeConfig, before: FlowState, after: FlowState, score: mx.array
) -> FlowState:
    """Fill free slots with children of the flows that score highest, ``[B, F]``.

    They head for the other face than their parents: what a flow carries can then be
    read on both.
    """
    able = mx.logical_and(after.alive, mx.logical_not(after.settled))
    parents = choose_parents(config, score, able, after.exists)
    births = plan_births(config, parents)
    grown = _bear(config, before, after, parents)
    # A column after the last takes what is no parent.
    slot = mx.where(births.is_born, parents, config.slots)
    settled = mx.pad(after.settled, ((0, 0), (0, 1)))
    settled = mx.put_along_axis(settled, slot, births.is_born, axis=1)[:, :-1]
    weight = mx.where(births.is_new, inherit(births, score), after.weight)
    return grown._replace(
        face=mx.where(births.is_new, -grown.face, grown.face),
        weight=weight,
        settled=mx.logical_or(settled, births.is_new),
    )


def _bear(
    config: LatticeConfig, before: FlowState, after: FlowState, parents: mx.array
) -> FlowState:
    """Put the children of these parents, ``[B, M]``, into their slots.

    A child starts where its parent was before the move, with the energy and hidden
    state its parent has after it.
    """
    births = plan_births(config, parents)
    place, is_new = partial(place_children, births), births.is_new
    start = take_parents(births, before.position)  # [B, M, 3]
    # Its parent's past is not the child's: the memory holds the place of birth alone.
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

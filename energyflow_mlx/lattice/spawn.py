"""Children of flows, within a fixed budget of slots per sample.

Flows that move far have children, or those that the carrier scores highest. A choice of
the highest has no gradient: what learns is the child's weight in the readout, which is
its parent's score, as in a mixture of experts (Shazeer et al., "Outrageously Large
Neural Networks", 2017).
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config.flows import SpawnConfig
from energyflow_mlx.config.lattice import LatticeConfig


def count_children(
    config: SpawnConfig, length: mx.array, can_spawn: mx.array
) -> mx.array:
    """Children each flow asks for.

    ``min(floor(length / threshold) - 1, max_per_step)``, never negative; 0 for flows
    that may not spawn.

    Args:
        config: Threshold and limit.
        length: How far each flow moved in this step, ``[B, F]``.
        can_spawn: Flows that may, ``[B, F]`` bool.

    Returns:
        ``[B, F]`` int32.
    """
    wanted = mx.floor(length / config.threshold) - 1.0
    wanted = mx.clip(wanted, 0, config.max_per_step)
    return mx.where(can_spawn, wanted, 0.0).astype(mx.int32)


def assign_slots(config: LatticeConfig, wanted: mx.array, exists: mx.array) -> mx.array:
    """Parent of the child born into each spawn slot, ``[B, M]`` int32, or -1.

    Free slots are handed out in the order of the parents' slots until none is left.

    Args:
        config: Settings of the lattice; M is its ``spare_slots``.
        wanted: Children each flow asks for, ``[B, F]``.
        exists: Slots in use, ``[B, F]``.
    """
    batch, slots = wanted.shape
    budget = config.spare_slots
    used = exists.sum(axis=1, keepdims=True).astype(mx.int32) - config.surface_size
    # An exclusive running sum: each parent's children come after those before it.
    first = used + mx.cumsum(wanted, axis=1) - wanted  # [B, F]
    parent = mx.broadcast_to(mx.arange(slots, dtype=mx.int32), (batch, slots))
    born = mx.full((batch, budget + 1), -1, dtype=mx.int32)
    for child in range(config.spawn.max_per_step):
        slot = first + child
        granted = mx.logical_and(child < wanted, slot < budget)
        # The column after the last takes what finds no slot.
        target = mx.where(granted, slot, budget)
        born = mx.put_along_axis(born, target, parent, axis=1)
    return mx.stop_gradient(born[:, :budget])  # [B, M]


def choose_parents(
    config: LatticeConfig, score: mx.array, can_spawn: mx.array, exists: mx.array
) -> mx.array:
    """Parent of the child born into each spawn slot, ``[B, M]`` int32, or -1.

    Free slots go to the flows with the highest scores, the highest first.

    Args:
        config: Settings of the lattice; M is its ``spare_slots``.
        score: Of every flow, in (0, 1), ``[B, F]``; those below ``spawn.threshold``
            have no child.
        can_spawn: Flows that may, ``[B, F]`` bool.
        exists: Slots in use, ``[B, F]``.
    """
    slots, budget = score.shape[1], config.spare_slots
    wanted = mx.logical_and(can_spawn, score >= config.spawn.threshold)
    order = mx.argsort(mx.where(wanted, -score, mx.inf), axis=1)  # [B, F]
    used = exists.sum(axis=1, keepdims=True).astype(mx.int32) - config.surface_size
    rank = mx.arange(budget, dtype=mx.int32) - used  # [B, M]
    parent = mx.take_along_axis(order, mx.clip(rank, 0, slots - 1), axis=1)
    is_born = mx.logical_and(rank >= 0, rank < wanted.sum(axis=1, keepdims=True))
    return mx.stop_gradient(mx.where(is_born, parent.astype(mx.int32), -1))


class Births(NamedTuple):
    """Children of one step.

    Attributes:
        row: Parent of each child among the ``B * F`` rows of a batch, ``[B, M]``
            int32; 0 where no child is born.
        is_born: Spawn slots in which a child is born, ``[B, M]`` bool.
        is_new: The same over all slots, ``[B, F]`` bool.
    """

    row: mx.array
    is_born: mx.array
    is_new: mx.array


def plan_births(config: LatticeConfig, parents: mx.array) -> Births:
    """Births of one step.

    Args:
        config: Settings of the lattice.
        parents: What ``assign_slots`` gives, ``[B, M]``.
    """
    batch = parents.shape[0]
    is_born = parents >= 0
    first = config.slots * mx.arange(batch, dtype=mx.int32)[:, None]
    # One flat index over all samples: a single gather then serves every array.
    row = mx.where(is_born, parents + first, 0)  # [B, M]
    old = mx.zeros((batch, config.surface_size), dtype=mx.bool_)
    return Births(row, is_born, mx.concatenate([old, is_born], axis=1))


def take_parents(births: Births, source: mx.array) -> mx.array:
    """Row of each child's parent.

    Args:
        births: Children of the step.
        source: Array of every slot, ``[B, F, ...]``.

    Returns:
        ``[B, M, ...]``; the first row where no child is born.
    """
    return mx.take(_flat(source), births.row, axis=0)


def place_children(births: Births, own: mx.array, children: mx.array) -> mx.array:
    """Put children into the slots they are born in.

    Args:
        births: Children of the step.
        own: Array of every slot, ``[B, F, ...]``.
        children: What goes into the spawn slots, ``[B, M, ...]``.

    Returns:
        ``own`` with the children in it, ``[B, F, ...]``.
    """
    cells = own.shape[1] - births.is_born.shape[1]
    kept = mx.where(_like(births.is_born, own), children, own[:, cells:])
    return mx.concatenate([own[:, :cells], kept], axis=1)


def inherit(births: Births, own: mx.array) -> mx.array:
    """Fill the slots where a child is born with a copy of its parent's row.

    The gradient of a child goes to its parent: written out, because MLX would fill
    and add up whole arrays for every slice and every gathered row.

    Args:
        births: Children of the step.
        own: Array of every slot, ``[B, F, ...]``.

    Returns:
        ``[B, F, ...]``.
    """
    filled: mx.array = _inherit(own, *births)
    return filled


@mx.custom_function
def _inherit(own: mx.array, *arrays: mx.array) -> mx.array:
    births = Births(*arrays)
    return place_children(births, own, take_parents(births, own))


@_inherit.vjp
def _inherit_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, ...]:
    births = Births(*primals[1:])
    cells = cotangent.shape[1] - births.is_born.shape[1]
    last = cotangent[:, cells:]
    passed = mx.where(_like(births.is_born, cotangent), last, 0)
    without = place_children(births, cotangent, mx.zeros_like(last))
    total = _flat(without).at[births.row].add(passed).reshape(cotangent.shape)
    return total, *(mx.zeros_like(a) for a in births)


def _flat(x: mx.array) -> mx.array:
    return x.reshape(-1, *x.shape[2:])


def _like(mask: mx.array, x: mx.array) -> mx.array:
    """Mask ``[B, M]`` with the trailing axes of ``x``."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))

"""Children of flows that move far, within a fixed budget of slots per sample."""

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig


def count_children(
    config: LatticeConfig, length: mx.array, can_spawn: mx.array
) -> mx.array:
    """Children each flow asks for, ``[B, F]`` int32.

    ``min(floor(length / threshold) - 1, max_spawn_per_step)``, never negative; 0 for
    flows that may not spawn.
    """
    wanted = mx.floor(length / config.spawn_threshold) - 1.0
    wanted = mx.clip(wanted, 0, config.max_spawn_per_step)
    return mx.where(can_spawn, wanted, 0.0).astype(mx.int32)


def assign_slots(config: LatticeConfig, wanted: mx.array, exists: mx.array) -> mx.array:
    """Parent of the child born into each spawn slot, ``[B, M]`` int32, or -1.

    Free slots are handed out in the order of the parents' slots until none is left.

    Args:
        config: Of the lattice; M is its ``spawn_slots``.
        wanted: Children each flow asks for, ``[B, F]``.
        exists: Slots in use, ``[B, F]``.
    """
    batch, slots = wanted.shape
    budget = config.spawn_slots
    used = exists.sum(axis=1, keepdims=True).astype(mx.int32) - config.surface_size
    first = used + mx.cumsum(wanted, axis=1) - wanted  # [B, F]
    parent = mx.broadcast_to(mx.arange(slots, dtype=mx.int32), (batch, slots))
    born = mx.full((batch, budget + 1), -1, dtype=mx.int32)
    for child in range(config.max_spawn_per_step):
        slot = first + child
        granted = mx.logical_and(child < wanted, slot < budget)
        # The column after the last takes what finds no slot.
        target = mx.where(granted, slot, budget)
        born = mx.put_along_axis(born, target, parent, axis=1)
    return mx.stop_gradient(born[:, :budget])


def inherit(
    config: LatticeConfig, parents: mx.array, own: mx.array, source: mx.array
) -> mx.array:
    """Fill the spawn slots where a child is born with its parent's row.

    Args:
        config: Of the lattice.
        parents: Of ``assign_slots``, ``[B, M]``.
        own: Array of every slot, ``[B, F, ...]``.
        source: Array the children copy from, same shape.
    """
    batch, slots = own.shape[:2]
    rows = mx.maximum(parents, 0) + slots * mx.arange(batch)[:, None]
    flat = source.reshape(batch * slots, *source.shape[2:])
    copied = mx.take(flat, rows, axis=0)  # [B, M, ...]
    is_born = (parents >= 0).reshape(*parents.shape, *[1] * (own.ndim - 2))
    cells = config.surface_size
    kept = mx.where(is_born, copied, own[:, cells:])
    return mx.concatenate([own[:, :cells], kept], axis=1)

"""From landed flows to the output surface, and what to report about them."""

from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.geometry import cell_index, cells_across, quantize
from energyflow_mlx.lattice.state import FlowState
from energyflow_mlx.ops import CellMode, lattice_readout, lattice_scatter

_AGE_WEIGHT = 0.1
_LEAST_WEIGHT = 1e-6
_EVERY_CELL: CellMode = "nearest"


def score_flows(config: LatticeConfig, state: FlowState) -> mx.array:
    """Logits by which flows that share a cell are averaged, ``[B, F]``.

    softmax:     ``|e| / (1 + gap) * (1 + 0.1 age)``
    importance:  ``log(proximity * safe / max(gap, safe) + path * age / T)``

    ``gap`` is the distance to the plane from which a flow had to be projected, 0 for
    a flow that arrived by itself. The logarithm makes the softmax an average by the
    importance itself. To the scores of children of the learned rule the logarithm of
    their weight is added. Slots never used get minus infinity.

    Args:
        config: Settings of the lattice.
        state: After ``land``.
    """
    readout = config.readout
    if readout.weighting == "softmax":
        score = mx.abs(state.energy) / (1.0 + state.gap)
        score = score * (1.0 + _AGE_WEIGHT * state.age)
    else:
        safe = readout.safe_distance
        near = readout.proximity_weight * safe / mx.maximum(state.gap, safe)  # [B, F]
        far = readout.path_length_weight * state.age / config.total_steps
        score = mx.log(mx.maximum(near + far, 1e-6))
    if config.spawn.is_learned:
        score = score + mx.log(mx.maximum(state.weight, _LEAST_WEIGHT))
    return mx.where(state.exists, score, -mx.inf)


def read_faces(config: LatticeConfig, state: FlowState) -> list[mx.array]:
    """Energies that arrived on the cells: one surface, or the near and the far face.

    merged:    ``read(energy)``
    separate:  ``near`` and ``far``, below
    signed:    ``read(|energy| * z)``

    ``near = read(energy * (1 - z) / 2)`` and ``far = read(energy * (1 + z) / 2)``: all
    flows of a cell share its average on whichever face they are, so that both faces
    add up to the one surface, and z has a gradient. It is -1 or +1 here.

    Args:
        config: Settings of the lattice.
        state: After ``land``.

    Returns:
        ``[B, H, W]`` each; cells without a flow are 0.
    """
    score = score_flows(config, state)
    read = partial(_read, config, state.position, score)
    # A child alone on its cell has no one to be weighed against.
    energy = state.energy * state.weight if config.spawn.is_learned else state.energy
    if config.readout.faces == "merged":
        return [read(energy)]
    if config.readout.faces == "signed":
        return [read(mx.abs(energy) * state.position[..., 2])]
    far = (1.0 + state.position[..., 2]) / 2  # 1 or 0
    return [read(energy * (1.0 - far)), read(energy * far)]


def weigh_births(config: LatticeConfig, state: FlowState) -> mx.array:
    """Weights of all children over the slots for them, scalar; 0 without slots.

    Args:
        config: Settings of the lattice.
        state: After ``land``.
    """
    cells, slots = config.surface_size, max(1, config.spare_slots)
    weights = mx.where(state.exists, state.weight, 0.0)[:, cells:]
    return weights.sum() / (slots * state.exists.shape[0])


def _read(
    config: LatticeConfig, position: mx.array, score: mx.array, energy: mx.array
) -> mx.array:
    size = (config.cube.height, config.cube.width)
    mode: CellMode = config.readout.scatter  # type: ignore[assignment]
    return lattice_readout(position, energy, score, size, mode)


def count_arrivals(config: LatticeConfig, state: FlowState, face: float) -> mx.array:
    """Flows on each cell of one face, projected ones included.

    Args:
        config: Settings of the lattice.
        state: After ``land``.
        face: z of the face, -1 or +1.

    Returns:
        ``[B, H, W]`` float32; a flow counts on its nearest cell.
    """
    z = state.position[..., 2]
    # Projection sets z to the face exactly, so equality is safe.
    on_face = mx.logical_and(state.exists, z == face).astype(mx.float32)
    ones = mx.ones_like(on_face)
    size = (config.cube.height, config.cube.width)
    return lattice_scatter(state.position, ones, on_face, size, _EVERY_CELL)


def count_meetings(config: LatticeConfig, states: Sequence[FlowState]) -> mx.array:
    """Steps in which a flow shares its cell of the cube with another, mean of flows.

    Args:
        config: Settings of the lattice.
        states: After every step; flows that have arrived meet no one.

    Returns:
        Float32 scalar without gradient.
    """
    cube = config.cube
    levels, met = cube.depth + 1, mx.array(0.0)
    for state in states:
        place = mx.stop_gradient(state.position)
        cell = cell_index(place, cube.width, cube.height) * levels
        cell = cell + quantize(place[..., 2], levels)  # [B, F]
        count = mx.zeros((cell.shape[0], cube.surface_size * levels))
        rows = mx.arange(cell.shape[0])[:, None]
        count = count.at[rows, cell].add(state.alive.astype(mx.float32))
        shares = mx.take_along_axis(count, cell, axis=1) > 1
        met = met + mx.logical_and(shares, state.alive).sum()
    return met / states[-1].exists.sum()


def describe_flows(
    config: LatticeConfig, state: FlowState, surface: mx.array
) -> dict[str, mx.array]:
    """Statistics of one forward pass, lazy float32 scalars without gradient.

    Args:
        config: Settings of the lattice.
        state: After ``land``.
        surface: Energies that arrived, ``[B, H, W]``.

    Returns:
        ``reached_near`` and ``reached_far``: shares of the flows that reached the
        face z = -1 or +1 by themselves, ``reached`` their sum; ``projected``: share
        put there at the end; ``completed``: 1 if every created flow landed;
        ``created`` and ``spawned``: flows and children per sample, ``born``: share
        of the children's slots in use; ``covered``: share of output cells that are
        not zero; ``steps``: mean steps taken; ``path``: mean length travelled;
        ``sideways``: mean distance in x, y from the start. ``path_cells`` and
        ``sideways_cells`` are the same in cells along x, ``child_cells`` is that of
        children alone from their place of birth. ``face_entropy``: of the split of
        all flows between the faces, ``face_choice``: of the face of one cell's flow
        over the samples, mean over the cells; both in bits.
    """
    state = FlowState(*(_detach(a) for a in state))
    exists = state.exists.astype(mx.float32)
    created, batch = exists.sum(), exists.shape[0]
    near = mx.logical_and(state.exists, state.reached < 0).sum()
    far = mx.logical_and(state.exists, state.reached > 0).sum()
    by_itself = (near + far).astype(mx.float32)
    landed = mx.logical_not(mx.logical_or(state.alive, mx.logical_not(state.exists)))
    spawned = created / batch - config.surface_size
    return {
        "reached_near": near / created,
        "reached_far": far / created,
        "reached": by_itself / created,
        "projected": 1.0 - by_itself / created,
        "completed": (landed.sum() == created).astype(mx.float32),
        "created": created / batch,
        "spawned": spawned,
        "born": spawned / max(1, config.spare_slots),
        "covered": (mx.stop_gradient(surface) != 0).astype(mx.float32).mean(),
        "steps": (state.age * exists).sum() / created,
        **_describe_ways(config, state, exists),
        **_describe_faces(config, state, exists),
    }


def _describe_ways(
    config: LatticeConfig, state: FlowState, exists: mx.array
) -> dict[str, mx.array]:
    """Mean lengths; ``exists`` is 1 for slots in use, ``[B, F]``."""
    created, width = exists.sum(), config.cube.width
    offset = state.position[..., :2] - state.origin
    sideways = mx.sqrt((offset * offset).sum(axis=-1)) * exists
    children = mx.maximum(exists[:, config.surface_size :].sum(), 1.0)
    strayed = sideways[:, config.surface_size :].sum() / children
    path, side = (state.path * exists).sum() / created, sideways.sum() / created
    return {
        "path": path,
        "sideways": side,
        "path_cells": cells_across(path, width),
        "sideways_cells": cells_across(side, width),
        "child_cells": cells_across(strayed, width),
    }


def _describe_faces(
    config: LatticeConfig, state: FlowState, exists: mx.array
) -> dict[str, mx.array]:
    """Entropies of the faces; ``exists`` is 1 for slots in use, ``[B, F]``."""
    far = (state.position[..., 2] > 0).astype(mx.float32) * exists
    of_cells = far[:, : config.surface_size].mean(axis=0)
    return {
        "face_entropy": _bits(far.sum() / exists.sum()),
        "face_choice": _bits(of_cells).mean(),
    }


def _bits(share: mx.array) -> mx.array:
    """Entropy of a choice between two with this probability of one."""
    share = mx.clip(share, 1e-7, 1.0 - 1e-7)
    other = 1.0 - share
    return -(share * mx.log2(share) + other * mx.log2(other))


def _detach(a: mx.array | tuple) -> mx.array | tuple:
    return mx.stop_gradient(a) if isinstance(a, mx.array) else a

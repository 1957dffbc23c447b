"""From landed flows to the output surface, and what to report about them."""

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.state import FlowState
from energyflow_mlx.ops import CellMode, lattice_readout, lattice_scatter

_AGE_WEIGHT = 0.1
_EVERY_CELL: CellMode = "nearest"


def score_flows(config: LatticeConfig, state: FlowState) -> mx.array:
    """Logits by which flows that share a cell are averaged, ``[B, F]``.

    softmax:     ``|e| / (1 + gap) * (1 + 0.1 age)``
    importance:  ``log(proximity * safe / max(gap, safe) + path * age / T)``

    ``gap`` is the distance to the plane from which a flow had to be projected, 0 for
    a flow that arrived by itself. The logarithm makes the softmax an average by the
    importance itself. Slots never used get minus infinity.

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
    return mx.where(state.exists, score, -mx.inf)


def read_surface(config: LatticeConfig, state: FlowState) -> mx.array:
    """Energies that arrived on the cells, both faces on one surface.

    Args:
        config: Settings of the lattice.
        state: After ``land``.

    Returns:
        ``[B, H, W]``; cells without a flow are 0.
    """
    return lattice_readout(
        state.position,
        state.energy,
        score_flows(config, state),
        (config.cube.height, config.cube.width),
        config.readout.scatter,  # type: ignore[arg-type]
    )


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
        ``created`` and ``spawned``: flows and children per sample; ``covered``: share
        of output cells that are not zero; ``steps``: mean steps taken; ``path``: mean
        length travelled; ``sideways``: mean distance in x, y from the start.
    """
    state = FlowState(*(_detach(a) for a in state))
    exists = state.exists.astype(mx.float32)
    created = exists.sum()
    near = mx.logical_and(state.exists, state.reached < 0).sum()
    far = mx.logical_and(state.exists, state.reached > 0).sum()
    by_itself = (near + far).astype(mx.float32)
    landed = mx.logical_not(mx.logical_or(state.alive, mx.logical_not(state.exists)))
    offset = state.position[..., :2] - state.origin
    sideways = mx.sqrt((offset * offset).sum(axis=-1))
    batch = exists.shape[0]
    return {
        "reached_near": near / created,
        "reached_far": far / created,
        "reached": by_itself / created,
        "projected": 1.0 - by_itself / created,
        "completed": (landed.sum() == created).astype(mx.float32),
        "created": created / batch,
        "spawned": created / batch - config.surface_size,
        "covered": (mx.stop_gradient(surface) != 0).astype(mx.float32).mean(),
        "steps": (state.age * exists).sum() / created,
        "path": (state.path * exists).sum() / created,
        "sideways": (sideways * exists).sum() / created,
    }


def _detach(a: mx.array | tuple) -> mx.array | tuple:
    return mx.stop_gradient(a) if isinstance(a, mx.array) else a

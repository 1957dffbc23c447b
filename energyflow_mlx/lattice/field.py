"""The medium of the cube: a grid that flows write to and read from in every step.

Without it a flow sees no other before the readout. Every travelling flow gives its
energy, and a one, to the eight cells around it, by trilinear shares: particles in a
cell (Harlow, "The particle-in-cell computing method for fluid dynamics", 1964). It then
reads the grid at its own place with the same shares. What it reads is added, through a
linear map that starts at zero, to the state of the carrier's first layer.
"""

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.geometry import denormalize
from energyflow_mlx.lattice.state import FlowState
from energyflow_mlx.ops.flow_carry import States, sanitize

_CHANNELS = 2  # energy, flows
_CORNERS = 8


class Medium(nn.Module):
    """What a flow takes from the grid: its carrier's first state, changed."""

    def __init__(self, config: LatticeConfig) -> None:
        """Create a medium from which nothing is taken yet."""
        super().__init__()
        self.intake = mx.zeros((config.carrier.hidden, _CHANNELS))
        self._cells, self._config = config.field.cells, config

    def __call__(self, state: FlowState) -> States:
        """State of every GRU layer with what the flows read, ``[B, F, Hc]`` each."""
        hidden = state.hidden
        if not hidden:
            shape = (*state.energy.shape, self._config.carrier.hidden)
            hidden = (mx.zeros(shape),) * self._config.carrier.layers
        read = read_grid(write_grid(state, self._cells), state.position)
        taken = sanitize(read) @ self.intake.T  # [B, F, Hc]
        return (hidden[0] + taken.astype(hidden[0].dtype), *hidden[1:])


def write_grid(state: FlowState, cells: int) -> mx.array:
    """Energies and numbers of the flows that travel, spread over a grid.

    The sum over the grid is the sum over the flows.

    Args:
        state: Flows at any time.
        cells: Cells N along each axis.

    Returns:
        Energy and number in every cell, ``[B, N, N, N, 2]`` float32.
    """
    batch = state.energy.shape[0]
    index, share = _corners(state.position, cells)
    given = mx.stack([state.energy, mx.ones_like(state.energy)], axis=-1)
    given = given * state.weight[..., None]
    given = mx.where(state.alive[..., None], given, 0.0)  # [B, F, 2]
    spread = share[..., None] * given[:, :, None]  # [B, F, 8, 2]
    grid = mx.zeros((batch * cells**3, _CHANNELS))
    grid = grid.at[index.reshape(-1)].add(spread.reshape(-1, _CHANNELS))
    return grid.reshape(batch, cells, cells, cells, _CHANNELS)


def read_grid(grid: mx.array, position: mx.array) -> mx.array:
    """Values of a grid ``[B, N, N, N, C]`` at positions ``[B, F, 3]``.

    Returns:
        ``[B, F, C]``: the mean of the eight cells around each, by their shares.
    """
    index, share = _corners(position, grid.shape[1])
    around = mx.take(grid.reshape(-1, grid.shape[-1]), index, axis=0)  # [B, F, 8, C]
    return (share[..., None] * around).sum(axis=2)


def _corners(position: mx.array, cells: int) -> tuple[mx.array, mx.array]:
    """Row among all cells of a batch, and share, of the eight around each flow.

    Returns:
        ``[B, F, 8]`` int32 and float32; the shares of a flow add up to 1.
    """
    place = denormalize(position, cells)  # [B, F, 3]
    low = mx.stop_gradient(mx.clip(mx.floor(place), 0, cells - 2))
    above = mx.arange(_CORNERS)[:, None] // mx.array([4, 2, 1]) % 2  # [8, 3]
    part = (place - low)[:, :, None]  # [B, F, 1, 3]
    share = mx.where(above == 1, part, 1.0 - part).prod(axis=-1)
    cell = low.astype(mx.int32)[:, :, None] + above
    strides = mx.array([cells * cells, cells, 1])
    sample = cells**3 * mx.arange(position.shape[0])[:, None, None]
    return (cell * strides).sum(axis=-1) + sample, share

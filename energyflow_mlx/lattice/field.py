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
from energyflow_mlx.lattice.state import FlowState
from energyflow_mlx.ops import field_read, field_write
from energyflow_mlx.ops.flow_carry import States, sanitize

_CHANNELS = 2  # energy, flows


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
        grid = write_grid(state, self._cells)
        read = field_read(grid, state.position, state.alive)
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
    given = mx.stack([state.energy, mx.ones_like(state.energy)], axis=-1)
    given = given * state.weight[..., None]  # [B, F, 2]
    return field_write(state.position, given, state.alive, cells)

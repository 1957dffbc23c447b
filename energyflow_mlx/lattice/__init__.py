"""The energy lattice: a cube that flows of energy cross, from vector to vector."""

from energyflow_mlx.lattice.lattice import EnergyLattice, FlowPaths, LatticeOutput
from energyflow_mlx.lattice.motion import displacement_scale, exploration_sigma
from energyflow_mlx.lattice.readout import count_arrivals
from energyflow_mlx.lattice.state import FlowState

__all__ = [
    "EnergyLattice",
    "FlowPaths",
    "FlowState",
    "LatticeOutput",
    "count_arrivals",
    "displacement_scale",
    "exploration_sigma",
]

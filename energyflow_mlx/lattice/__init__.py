"""The energy lattice: a cube that flows of energy cross, from vector to vector."""

from energyflow_mlx.lattice.dynamics import FlowState
from energyflow_mlx.lattice.lattice import EnergyLattice, FlowPaths, LatticeOutput
from energyflow_mlx.lattice.readout import count_arrivals
from energyflow_mlx.lattice.schedule import displacement_scale, exploration_sigma

__all__ = [
    "EnergyLattice",
    "FlowPaths",
    "FlowState",
    "LatticeOutput",
    "count_arrivals",
    "displacement_scale",
    "exploration_sigma",
]

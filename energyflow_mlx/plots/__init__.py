"""Pictures of a run: curves, the lattice's surfaces and flows, an interactive page.

Everything here draws from plain files and NumPy arrays; the entry point ``plot`` gets
them. Every file is written aside and renamed.
"""

from energyflow_mlx.plots.curves import plot_metrics
from energyflow_mlx.plots.page import write_page
from energyflow_mlx.plots.pictures import write_pictures

__all__ = [
    "plot_metrics",
    "write_page",
    "write_pictures",
]

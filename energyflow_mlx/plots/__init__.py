"""Pictures of a run: curves, the lattice's surfaces and flows, a report.

Everything here draws from plain files and NumPy arrays; the entry point ``plot`` gets
them. Every file is written aside and renamed.
"""

from energyflow_mlx.plots.comparison import write_comparison
from energyflow_mlx.plots.curves import plot_metrics
from energyflow_mlx.plots.facts import RunFacts, read_facts
from energyflow_mlx.plots.page import write_page
from energyflow_mlx.plots.pictures import write_pictures
from energyflow_mlx.plots.report import Flows, write_report

__all__ = [
    "Flows",
    "RunFacts",
    "plot_metrics",
    "read_facts",
    "write_comparison",
    "write_page",
    "write_pictures",
    "write_report",
]

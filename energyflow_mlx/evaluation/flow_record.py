"""The flows of one sentence as NumPy arrays, and what is reported about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Statistic, what it says, whether it is a share.
_STATISTICS = (
    ("reached_near", "reach the near face, z = \u22121", True),
    ("reached_far", "reach the far face, z = +1", True),
    ("projected", "projected at the end", True),
    ("covered", "cells covered", True),
    ("created", "flows", False),
    ("spawned", "of them spawned", False),
    ("born", "of the children's slots used", True),
    ("steps", "mean steps", False),
    ("path", "mean path length", False),
    ("path_cells", "the same in cells", False),
    ("sideways", "mean sideways displacement", False),
    ("sideways_cells", "sideways, in cells", False),
    ("child_cells", "children from their birth, in cells", False),
    ("meetings", "steps in which flows share a cell", False),
    ("face_entropy", "entropy of the faces, in bits", False),
)


@dataclass(frozen=True)
class Cube:
    """What all sentences of a run have in common.

    Attributes:
        width: Cells along x, W.
        height: Cells along y, H.
        steps: Steps that were taken, T.
        start_z: Level of the plane that the flows start on.
        is_dual: Whether both faces of z receive flows, or only z = +1.
    """

    width: int
    height: int
    steps: int
    start_z: float
    is_dual: bool


@dataclass(frozen=True)
class FlowRecord:
    """The path of every flow that a sentence created, F of them.

    Attributes:
        text: The sentence.
        result: One line on what came out of the lattice.
        statistics: As the lattice reports them; see ``lattice.readout``.
        position: ``[T + 1, F, 3]`` inside [-1, 1]; time 0 is the launch, the last
            entry is before projection. Before its birth a flow's entry means nothing,
            after its arrival it stays.
        energy: ``[T + 1, F]``.
        alive: Still travelling, ``[T + 1, F]`` bool.
        reached: Face reached by itself, -1 or +1, else 0, ``[F]``.
        age: Steps taken, ``[F]``.
        landed: Where each flow ended, projection included, ``[F, 3]``.
        arrivals_near: Flows on each cell of the face z = -1, projected ones included,
            ``[H, W]``.
        arrivals_far: The same of the face z = +1.
        surface_in: Energies the flows started with, ``[H, W]``.
        surface_out: Energies that arrived, ``[H, W]``.
        worth: What the result loses without the region of each cell, ``[H, W]``: one
            minus the cosine of the vector out to the one that comes out when the
            region's flows start without energy.
        field: Energy in every cell of the medium between the flows, by x, y and z,
            ``[T + 1, N, N, N]``; none in a lattice without one.
    """

    text: str
    result: str
    statistics: Mapping[str, float]
    position: np.ndarray
    energy: np.ndarray
    alive: np.ndarray
    reached: np.ndarray
    age: np.ndarray
    landed: np.ndarray
    arrivals_near: np.ndarray
    arrivals_far: np.ndarray
    surface_in: np.ndarray
    surface_out: np.ndarray
    worth: np.ndarray
    field: np.ndarray | None = None

    @cached_property
    def born(self) -> np.ndarray:
        """Time at which each flow appears, ``[F]``; 0 for all but children."""
        return np.argmax(self.alive, axis=0)

    @cached_property
    def arrived(self) -> np.ndarray:
        """Time from which each flow rests on a face, ``[F]``; T + 1 for never."""
        late = np.arange(len(self.alive))[:, None] > self.born
        rests = np.logical_and(late, np.logical_not(self.alive))
        return np.where(rests.any(axis=0), np.argmax(rests, axis=0), len(self.alive))

    @cached_property
    def parent(self) -> np.ndarray:
        """The flow that each child was born of, ``[F]`` int; -1 for all but children.

        A child begins where its parent was a step before.
        """
        found = np.full(len(self.born), -1)
        for child in np.flatnonzero(self.born):
            time = self.born[child]
            apart = self.position[time - 1] - self.position[time, child]
            distance = np.where(self.born < time, np.abs(apart).max(axis=1), np.inf)
            found[child] = np.argmin(distance)
        return found

    @property
    def arrivals(self) -> np.ndarray:
        """Flows on each cell of both faces together, ``[H, W]``."""
        return self.arrivals_near + self.arrivals_far

    @property
    def sideways(self) -> np.ndarray:
        """Distance in x and y from where each flow began, ``[F]``."""
        origin = self.position[self.born, np.arange(len(self.born)), :2]
        return np.linalg.norm(self.landed[:, :2] - origin, axis=1)


def mean_statistics(records: Sequence[FlowRecord]) -> dict[str, float]:
    """Mean over the sentences of every statistic."""
    names = records[0].statistics
    return {n: float(np.mean([r.statistics[n] for r in records])) for n in names}


def describe(
    statistics: Mapping[str, float], *, is_dual: bool = True
) -> dict[str, str]:
    """Put statistics into words for people: what, and the figure with its unit."""
    shown = {}
    for name, label, is_share in _STATISTICS:
        if name not in statistics or (name == "reached_near" and not is_dual):
            continue
        shown[label] = _format(statistics[name], is_share=is_share)
    return shown


def _format(value: float, *, is_share: bool) -> str:
    if is_share:
        return f"{100 * value:.1f} %"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"

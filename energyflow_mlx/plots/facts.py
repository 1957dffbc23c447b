"""What a run folder says about its run, as plain values for pictures and tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from energyflow_mlx.plots.curves import Curves, curves_of
from energyflow_mlx.runs.folder import RunFolder, differences, flatten
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime.received import is_there, read_object

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """A run as its files have it.

    Attributes:
        name: Name of its folder.
        settings: Every setting by its dotted key.
        changed: Keys of settings that are not the defaults.
        summary: How it ended; empty before its end.
        evaluation: The latest evaluation; empty before the first.
        samples: Followed sentences, update after update.
        curves: Everything that was logged over the updates.
    """

    name: str
    settings: dict[str, Any]
    changed: frozenset[str]
    summary: Record
    evaluation: Record
    samples: list[Record]
    curves: Curves

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the best weights on the held-out sentences, at the end."""
        found: dict[str, float] = self.summary.get("final", {})
        return found


def read_facts(run: RunFolder) -> RunFacts:
    """Read what a run folder holds; it may still be training.

    Raises:
        InputError: The folder is missing, or a file in it is damaged.
    """
    config = run.read_config()
    return RunFacts(
        name=run.path.resolve().name,
        settings=flatten(config.to_json()),
        changed=frozenset(differences(type(config)(), config)),
        summary=run.read_summary(),
        evaluation=_read_object(run.evaluation),
        samples=read_metrics(run.samples) if run.samples.is_file() else [],
        curves=curves_of(read_metrics(run.metrics)),
    )


def _read_object(path: Path) -> Record:
    return read_object(path, "plot") if is_there(path) else {}

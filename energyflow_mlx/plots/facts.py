"""What a run folder says about its run, as plain values for pictures and tables."""

from dataclasses import dataclass
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.corrections import PREFIX
from energyflow_mlx.plots.curves import Curves, curves_of
from energyflow_mlx.runs.folder import RunFolder, differences, flatten
from energyflow_mlx.runtime.received import require_type

Record = dict[str, Any]
Form = dict[str, Any]  # type of each key

# What pictures and tables rely on.
_RETRIEVAL: Form = {"confused": int, "sentences": int, "worst": list[dict[str, Any]]}
_CONFUSED: Form = dict.fromkeys(("sentence", "nearest"), str)
_FAILURES: Form = {"wrong": int, "sentences": int, "worst": list[dict[str, Any]]}
_FAILURE: Form = {"sentence": str, "written": list[dict[str, Any]]}
_WRITTEN: Form = {"corrections": int, "text": str, "cosine": float}
_Group = dict[str, float | None]
_CONFUSED |= dict.fromkeys(("own_cosine", "nearest_cosine"), float)


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
        records: Everything that was logged.
        curves: The numbers of the records over the updates.
    """

    name: str
    settings: dict[str, Any]
    changed: frozenset[str]
    summary: Record
    evaluation: Record
    samples: list[Record]
    records: list[Record]
    curves: Curves

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the best weights on the held-out sentences, at the end."""
        found: dict[str, float] = self.summary.get("final", {})
        return found


def read_facts(run: RunFolder) -> RunFacts:
    """Read what a run folder holds; it may still be training.

    Raises:
        InputError: The folder, its configuration or its log is missing, or a result
            holds values of another type.
    """
    config, records = run.read_config(), run.read_log()
    return RunFacts(
        name=run.path.resolve().name,
        settings=flatten(config.to_json()),
        changed=frozenset(differences(type(config)(), config)),
        summary=_read_summary(run),
        evaluation=_read_evaluation(run),
        samples=run.read_samples(),
        records=records,
        curves=curves_of(records),
    )


def _read_summary(run: RunFolder) -> Record:
    found = run.read_summary()
    if found:
        _require(found["best"], {"step": int}, f"[plot] {run.summary}: best")
    return found


def _read_evaluation(run: RunFolder) -> Record:
    found, where = run.read_evaluation(), f"[plot] {run.evaluation}"
    details = found.get("details", {})
    spearman = found.get("spearman", {})
    require_type(spearman, dict[str, float | None], f"{where}: spearman")
    require_type(details, dict[str, dict[str, Any]], f"{where}: details")
    if retrieval := details.get("retrieval"):
        _require(retrieval, _RETRIEVAL, f"{where}: retrieval")
        for pair in retrieval["worst"]:
            _require(pair, _CONFUSED, f"{where}: worst")
    if failures := details.get("failures"):
        _require(failures, _FAILURES, f"{where}: failures")
        for failure in failures["worst"]:
            _require(failure, _FAILURE, f"{where}: worst")
            for written in failure["written"]:
                _require(written, _WRITTEN, f"{where}: written")
    _require_corrections(found, where)
    for name, points in details.get("sts", {}).items():
        require_type(points, dict[str, list[float]], f"{where}: sts")
        sizes = [len(points.get(key, ())) for key in ("score", "cosine")]
        if name not in spearman or sizes[0] != sizes[1]:
            raise InputError(
                f"{where}: sts {name} must have a score and a cosine for each pair, "
                f"got {sizes[0]} and {sizes[1]}."
            )
    return found


def _require_corrections(found: Record, where: str) -> None:
    """Refuse figures after corrections that are no table."""
    for name in (name for name in found if name.startswith(PREFIX)):
        figures = found[name]
        require_type(
            figures, dict[str, float | None | dict[str, _Group]], f"{where}: {name}"
        )
        if not name.removeprefix(PREFIX).isdecimal():
            raise InputError(f"{where}: {name} must end in a number.")


def _require(found: Any, form: Form, where: str) -> None:
    """Refuse an object that lacks a key, or has a value of another type there."""
    require_type(found, dict[str, Any], where)
    for key, kind in form.items():
        require_type(found.get(key), kind, f"{where}: {key}")

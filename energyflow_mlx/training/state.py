"""What a run has reached: arrays that updates change, progress, running means."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import MODEL, OPTIMIZER, SCALE, TRAINED
from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.runtime.received import built
from energyflow_mlx.training.averaging import Average
from energyflow_mlx.training.optimizer import Arrays, Moments
from energyflow_mlx.training.precision import LossScale

_UPDATES = "updates"


class TrainState(NamedTuple):
    """Everything an update changes.

    Attributes:
        parameters: Every parameter of the model by path, float32.
        moments: Those of the trainable ones, as ``optimizer`` makes them.
        loss_scale: Dynamic loss scale.
        average: Moving average of the trainable ones; empty where none is kept.
    """

    parameters: Arrays
    moments: dict[str, Moments]
    loss_scale: LossScale
    average: Average

    def for_gradients(self, averaged: Collection[str] = ()) -> "TrainState":
        """The state without what gradients do not read: it stays out of their graph.

        Args:
            averaged: Weights whose average they read, by the names of the state.
        """
        weights = {n: a for n, a in self.average.weights.items() if n in averaged}
        return self._replace(moments={}, average=self.average._replace(weights=weights))

    def arrays(self) -> Arrays:
        """Flat view for checkpoints, named by kind and path.

        The model's weights are the averaged ones, where there are any: they are what
        was measured. Those that training goes on from lie beside them.
        """
        averaged = self.average.weights
        kept = self.parameters | averaged
        flat = {f"{MODEL}.{path}": array for path, array in kept.items()}
        if averaged:
            flat |= {f"{TRAINED}.{path}": self.parameters[path] for path in averaged}
            flat[f"{TRAINED}.{_UPDATES}"] = self.average.updates
        for path, moments in self.moments.items():
            flat |= {f"{OPTIMIZER}.{path}.{k}": v for k, v in moments.items()}
        return flat | {
            f"{SCALE}.scale": self.loss_scale.scale,
            f"{SCALE}.good": self.loss_scale.good,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, skipped: int = 0) -> "TrainState":
        """Inverse of ``arrays``.

        Args:
            arrays: Of a checkpoint.
            skipped: Updates skipped in a row up to there; the progress has it.
        """
        parameters: Arrays = {}
        trained: Arrays = {}
        moments: dict[str, Moments] = {}
        for name, array in arrays.items():
            kind, path = name.split(".", 1)
            if kind == MODEL:
                parameters[path] = array
            elif kind == TRAINED:
                trained[path] = array
            elif kind == OPTIMIZER:
                owner, part = path.rsplit(".", 1)
                moments.setdefault(owner, {})[part] = array
        factor, good = arrays[f"{SCALE}.scale"], arrays[f"{SCALE}.good"]
        scale = LossScale(factor, good, mx.array(float(skipped)))
        updates = trained.pop(_UPDATES, mx.zeros(()))
        average = Average({path: parameters[path] for path in trained}, updates)
        return cls(parameters | trained, moments, scale, average)


def arrays_of_parts(arrays: Arrays, own: Arrays) -> Arrays:
    """Arrays of a checkpoint, of the parts that are trained here.

    A run of an earlier version may hold a part that it never trained.

    Args:
        arrays: Of the checkpoint, as ``TrainState.arrays`` names them.
        own: Those of the run.
    """
    parts = {tuple(name.split(".")[:2]) for name in own}
    return {k: a for k, a in arrays.items() if tuple(k.split(".")[:2]) in parts}


class Gradients(NamedTuple):
    """Summed gradients, loss, count and metric sums of micro-batches so far."""

    gradients: Arrays
    loss: mx.array
    count: mx.array
    metrics: Arrays


def add_gradients(total: Gradients | None, new: Gradients) -> Gradients:
    """Sum of two micro-batches' gradients, losses, counts and metrics."""
    if total is None:
        return new
    return Gradients(
        {p: total.gradients[p] + g for p, g in new.gradients.items()},
        total.loss + new.loss,
        total.count + new.count,
        {name: total.metrics[name] + m for name, m in new.metrics.items()},
    )


def sum_over(group: Group, own: Gradients, told: Arrays) -> tuple[Gradients, Arrays]:
    """Sums over the processes of what one update needs of all of them.

    Args:
        group: The processes.
        own: This process's gradients, loss, count and metrics.
        told: What else it tells the others.

    Returns:
        The sums of both.
    """
    scalars = [own.loss, own.count, *own.metrics.values(), *told.values()]
    summed = iter(group.sum([*own.gradients.values(), *scalars]))
    total = Gradients(
        {path: next(summed) for path in own.gradients},
        next(summed),
        next(summed),
        {name: next(summed) for name in own.metrics},
    )
    return total, {name: next(summed) for name in told}


@dataclass
class Progress:
    """State of a run beside its arrays; saved with every checkpoint.

    Attributes:
        step: Updates done.
        best_value: Best value of the chosen metric so far.
        best_step: Step of it.
        stale: Validations since it improved.
        seconds: Training time in seconds, over all resumptions.
        samples: Sentences trained on.
        loss_scale: That of the latest update; none but with float16.
        skipped: Updates that changed nothing, because they were not finite.
        skipped_in_row: Those of them since one was made.
        rollbacks: How often the run went back to a checkpoint.
        rate_factor: Factor of every learning rate; below 1 after a rollback.
    """

    step: int = 0
    best_value: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    samples: int = 0
    loss_scale: float | None = None
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    rate_factor: float = 1.0

    def note_update(self, *, moved: bool, loss_scale: float | None) -> None:
        """Take note whether an update was made, or skipped as not finite."""
        self.loss_scale = loss_scale
        self.skipped += not moved
        self.skipped_in_row = 0 if moved else self.skipped_in_row + 1

    def note(self, value: float, *, higher_is_better: bool, min_delta: float) -> bool:
        """Take the chosen metric of a validation; returns whether it improved."""
        sign = 1.0 if higher_is_better else -1.0
        better = self.best_value is None or sign * (value - self.best_value) > min_delta
        if better:
            self.best_value, self.best_step, self.stale = value, self.step, 0
        else:
            self.stale += 1
        return better

    @property
    def is_begun(self) -> bool:
        """Whether anything of the run was done: an update, or the start measured."""
        return self.step > 0 or self.best_value is not None

    def is_stale(self, patience: int) -> bool:
        """Whether so many validations have not improved; 0 = never."""
        return 0 < patience <= self.stale

    def skips(self) -> dict[str, float]:
        """What the log and the summary say of updates that were not finite.

        Loss scale and skipped updates of a run in float16; rollbacks and the factor of
        the learning rates where there were any.
        """
        found: dict[str, float] = {}
        if self.loss_scale is not None:
            found |= {"loss_scale": self.loss_scale, "skipped": self.skipped}
        if self.rollbacks:
            found |= {"rollbacks": self.rollbacks, "rate_factor": self.rate_factor}
        return found

    def require_batch(self, batch_size: int, folder: Path) -> None:
        """Refuse to go on with updates of another size.

        Args:
            batch_size: Sentences of one update.
            folder: The run folder, for the message.

        Raises:
            InputError: The updates so far had another number of sentences.
        """
        if self.samples != self.step * batch_size:
            each = self.samples // max(1, self.step)
            raise InputError(
                f"[run] an update of {folder} must have {each} sentences, got "
                f"{batch_size} = trainer.micro_batch * trainer.accumulate * processes."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the checkpoint's meta data."""
        return asdict(self)

    def summary(self, metric: str, updates_per_epoch: int) -> dict[str, Any]:
        """What a run's summary says of it.

        Args:
            metric: Name of the chosen metric.
            updates_per_epoch: Updates of one pass over the sentences.
        """
        return {
            "steps": self.step,
            "epochs": self.step / updates_per_epoch,
            "seconds": self.seconds,
            "samples": self.samples,
            "best": {metric: self.best_value, "step": self.best_step},
            **self.skips(),
        }

    def take_over(self, values: Mapping[str, Any]) -> None:
        """Inverse of ``to_json``, in place: the loop holds on to its progress.

        Args:
            values: Of a checkpoint; other keys are ignored, and what an earlier version
                did not write is as at the start.

        Raises:
            InputError: A value is of another type.
        """
        own = {k: v for k, v in values.items() if k in self.__dataclass_fields__}
        taken = built(type(self), own, "[run] the checkpoint's meta data")
        vars(self).update(asdict(taken))


@dataclass
class RunningMeans:
    """Means of reported values since the last report, each over its own updates.

    Objectives report values of their own; every value is divided by the number of
    updates that gave it.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Take one update's values."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call; starts anew."""
        means = {name: self.sums[name] / self.counts[name] for name in self.sums}
        self.sums.clear()
        self.counts.clear()
        return means

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the checkpoint's meta data; non-finite sums as text."""
        plain = {k: v if math.isfinite(v) else str(v) for k, v in self.sums.items()}
        return {"sums": plain, "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunningMeans":
        """Inverse of ``to_json``; of nothing, where an earlier version kept none."""
        sums = {name: float(value) for name, value in values.get("sums", {}).items()}
        return cls(sums, dict(values.get("counts", {})))

"""What a run has reached: arrays that updates change, progress, running means."""

from collections.abc import Mapping
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
        moments: AdamW moments of the trainable ones.
        loss_scale: Dynamic loss scale.
        average: Moving average of the trainable ones; empty where none is kept.
    """

    parameters: Arrays
    moments: dict[str, Moments]
    loss_scale: LossScale
    average: Average

    def for_gradients(self) -> "TrainState":
        """The state without what gradients do not read: it stays out of their graph."""
        return self._replace(moments={}, average=self.average._replace(weights={}))

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
    def from_arrays(cls, arrays: Arrays) -> "TrainState":
        """Inverse of ``arrays``."""
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
        scale = LossScale(arrays[f"{SCALE}.scale"], arrays[f"{SCALE}.good"])
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


def sum_over(group: Group, own: Gradients) -> Gradients:
    """Sum over the processes' gradients, losses, counts and metrics of one update."""
    scalars = [own.loss, own.count, *own.metrics.values()]
    summed = iter(group.sum([*own.gradients.values(), *scalars]))
    return Gradients(
        {path: next(summed) for path in own.gradients},
        next(summed),
        next(summed),
        {name: next(summed) for name in own.metrics},
    )


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
    """

    step: int = 0
    best_value: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    samples: int = 0

    def note(self, value: float, *, higher_is_better: bool, min_delta: float) -> bool:
        """Take the chosen metric of a validation; returns whether it improved."""
        sign = 1.0 if higher_is_better else -1.0
        better = self.best_value is None or sign * (value - self.best_value) > min_delta
        if better:
            self.best_value, self.best_step, self.stale = value, self.step, 0
        else:
            self.stale += 1
        return better

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
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """Inverse of ``to_json``; other keys are ignored.

        Raises:
            InputError: A value is missing or of another type.
        """
        where = "[run] the checkpoint's meta data"
        own = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        if missing := cls.__dataclass_fields__.keys() - own.keys():
            raise InputError(f"{where}: {min(missing)} is missing.")
        return built(cls, own, where)


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

"""What a run has reached: step, best metric, time, and running means for reports."""

from dataclasses import asdict, dataclass, field
from typing import Any

from energyflow_mlx.config import LOWER_IS_BETTER, TrainerConfig


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

    def note(self, metrics: dict[str, float], config: TrainerConfig) -> bool:
        """Take a validation's metrics; returns whether the chosen one improved."""
        value = metrics[config.best_metric]
        sign = -1.0 if config.best_metric in LOWER_IS_BETTER else 1.0
        better = (
            self.best_value is None
            or sign * (value - self.best_value) > config.min_delta
        )
        if better:
            self.best_value, self.best_step, self.stale = value, self.step, 0
        else:
            self.stale += 1
        return better

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the checkpoint's meta data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Inverse of ``to_json``; other keys are ignored."""
        return cls(**{k: values[k] for k in cls.__dataclass_fields__})


@dataclass
class RunningMeans:
    """Means of reported values since the last report, each over its own updates.

    Distillation reports cosine and MSE, reconstruction cross entropy; every value is
    divided by the number of updates that gave it.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
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

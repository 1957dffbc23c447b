"""One update of a run: its objective, rate and random keys; submitted, then read.

All of them are pure functions of the update's number, and of how often the run went
back.
"""

import logging
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.readback import Flight, ReadbackEngine
from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.divergence import Inquiry
from energyflow_mlx.training.ending import ASKED, Ending
from energyflow_mlx.training.feed import Feed, Update
from energyflow_mlx.training.objectives.base import Objective, StepBatch
from energyflow_mlx.training.precision import most_skipped
from energyflow_mlx.training.random_keys import MOST_KEYS, update_keys
from energyflow_mlx.training.schedule import scheduled
from energyflow_mlx.training.state import Gradients, Progress, add_gradients
from energyflow_mlx.training.submitted import Submitted
from energyflow_mlx.training.update import Stepper
from energyflow_mlx.training.updates import Updates

logger = logging.getLogger(__name__)


class UpdateRunner:
    """Runs single updates of a run; the trainer is one, with the loop around them.

    Attributes:
        config: The run's configuration.
        objectives: What is trained, by name.
        group: The processes that train together.
        engine: Starts and computes.
        stepper: Has the state.
        feed: Gives the batches.
        updates: Makes them of these, and of what the run makes itself.
        alternation: Which objective takes which update.
        progress: Of the run; takes note of updates that are skipped.
    """

    config: Config
    objectives: Mapping[str, Objective]
    group: Group
    engine: ReadbackEngine
    stepper: Stepper
    feed: Feed
    updates: Updates
    alternation: Alternation
    progress: Progress
    _ending: Ending
    _inquiry: Inquiry
    _updates_of: Mapping[str, int]

    def learning_rate(self, step: int, name: str) -> float:
        """Learning rate of update ``step``, on its own objective's schedule."""
        peak = self.objectives[name].settings.peak_lr
        done, own = self.alternation.counts(step)[name], self._updates_of[name]
        rate = scheduled(self.config.optimizer, peak, done, own)
        return rate * self.progress.rate_factor

    def submit(self, step: int, update: Update) -> Submitted:
        """Build update ``step`` and start it on the device; waits for none of it.

        Of its micro-batches two are in flight at most.

        Args:
            step: Number of the update.
            update: Its micro-batches.
        """
        objective = self.objectives[self.alternation.objective_of(step)]
        lr = self.learning_rate(step, objective.name)
        controls = {k: mx.array(v) for k, v in objective.controls(step).items()}
        first = self.group.rank * len(update)
        keys = update_keys(self.config.seed, step, first)
        total: Gradients | None = None
        flights: list[Flight] = []
        parts: list[tuple[StepBatch, mx.array]] = []
        for number, batch in enumerate(update):
            is_last = number + 1 == len(update)
            batch, key = batch._replace(controls=controls), keys[number % MOST_KEYS]
            parts.append((batch, key))
            with self.engine.launched(f"{objective.name} {step}.{number}") as flight:
                if len(update) == 1:
                    report = self.stepper.update(
                        objective.name, batch, key, lr, self._ending.told()
                    )
                else:
                    new = self.stepper.micro_gradients(objective.name, batch, key)
                    total = add_gradients(total, new)
                    self.engine.fence(total)
                    self.engine.defer(f"{objective.name} loss sum", total.loss)
                if is_last and total is not None:
                    told = self._ending.told()
                    report = self.stepper.apply(total, batch.rows, lr, told)
                if is_last:
                    self.engine.fence(self.stepper.arrays())
                    read = self.engine.defer(f"{objective.name} report", report)
            if flights:
                flights[-1].land()
            flights.append(flight)
        return Submitted(step, objective.name, lr, flights, read, parts)

    def values_of(self, submitted: Submitted) -> dict[str, float]:
        """Wait for an update; its values on the host, named for the log.

        Of one that float16 skipped only the learning rate is given.

        Raises:
            Diverged: Loss or gradient is not finite, with float16 once too often.
        """
        step, name = submitted.step, submitted.objective
        submitted.flights[-1].land()
        values: dict[str, Any] = submitted.report.value()
        self._ending.hear(step, values.pop(ASKED, ()))
        moved, progress = bool(values.pop("moved")), self.progress
        progress.note_update(moved=moved, loss_scale=values.pop("loss_scale", None))
        if progress.skipped_in_row >= most_skipped(self.config):
            contents = self.updates.contents_of(step)
            raise self._inquiry.divergence(submitted, values, contents, progress)
        logger.debug("update %d: %s grad_norm %.4g", step, name, values["grad_norm"])
        for key in ("loss", "grad_norm"):
            values[f"{name}_{key}"] = values.pop(key)
        return (values if moved else {}) | {f"{name}_lr": submitted.lr}

    def run_update(self, step: int, update: Update) -> dict[str, float]:
        """Submit update ``step`` and wait for its values; see ``values_of``."""
        return self.values_of(self.submit(step, update))

"""The training loop: next update, submit, read the one before, report, validate, save.

One update is in flight: while the device computes update k the host takes the batch
of update k + 1, builds its graph and submits it, and only then waits for the values of
update k. Nothing is in flight where weights are measured or saved. Each micro-batch is
evaluated once, through the readback engine, with parameters and moments in the fence.
The order of batches, objectives, learning rates and random
keys are pure functions of the update's number, so a resumed run continues the same
curve.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import install_parameters
from energyflow_mlx.readback import Flight, ReadbackEngine
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.runs.record import Record, Start
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.runtime.interrupts import Interrupts
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.feed import Feed, RunData, Update
from energyflow_mlx.training.guesses import GUESSES, updates_for
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.random_keys import MOST_KEYS, update_keys
from energyflow_mlx.training.reporting import show_validation, shown
from energyflow_mlx.training.samples import FollowedSentences
from energyflow_mlx.training.schedule import scheduled
from energyflow_mlx.training.state import (
    Gradients,
    Progress,
    RunningMeans,
    TrainState,
    add_gradients,
    arrays_of_parts,
)
from energyflow_mlx.training.submitted import Submitted
from energyflow_mlx.training.timing import UpdateTimings
from energyflow_mlx.training.update import Stepper
from energyflow_mlx.training.validation import Validation, measures_of

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains one model in its run folder.

    Attributes:
        config: The run's configuration.
        objectives: What is trained, by name.
        codec: Model and tokenizer.
        data: Sentences and vectors.
        folder: Where the run lives.
        display: Where people see it.
        group: The processes that train together, this one among them.
        engine: The only place that evaluates.
        start: What was taken over from the run that this one starts from, if any.
    """

    config: Config
    objectives: Mapping[str, Objective]
    codec: SentenceCodec
    data: RunData
    folder: RunFolder
    display: RunDisplay
    group: Group = ALONE
    start: Start | None = None
    engine: ReadbackEngine = field(init=False)
    stepper: Stepper = field(init=False)
    validation: Validation = field(init=False)
    progress: Progress = field(default_factory=Progress)
    timings: UpdateTimings = field(default_factory=UpdateTimings)

    def __post_init__(self) -> None:
        """Plan the run and take over the newest checkpoint, if there is one."""
        settings, objectives = self.config.trainer, list(self.objectives.values())
        self.engine = ReadbackEngine(debug=settings.debug_timing)
        model = self.codec.model
        self.stepper = Stepper(model, self.config, objectives, self.engine, self.group)
        shares = {o.name: o.settings.share for o in objectives}
        self.feed = Feed(self.data, self.config, self.group, shares)
        self.steps_per_epoch = self.feed.updates_per_epoch
        self.total = settings.max_steps or settings.epochs * self.steps_per_epoch
        self.alternation = Alternation(shares, self.config.seed)
        self.updates = updates_for(
            self.feed, objectives, self.alternation, self.codec, self.data
        )
        self._updates_of = self.alternation.counts(self.total)
        self.validation = Validation(
            self.objectives, self.codec, self.data, self.stepper
        )
        # Several processes would have to agree on the last update.
        self._trained = self.start.trained if self.start else frozenset()
        self._interrupts = Interrupts(is_held=self.group.size == 1)
        self._followed = FollowedSentences.choose(
            self.codec, objectives, self.data, self.folder
        )
        self._resume()

    # -- resuming and saving -------------------------------------------------

    def _resume(self) -> None:
        """Go on from the newest checkpoint, every process with the first one's."""
        if self.group.is_writer:
            self._restore_latest()
        self.progress = Progress.from_json(self.group.of_first(self.progress.to_json))
        arrays = self.group.arrays_of_first(self.stepper.state.arrays())
        self.stepper.restore(TrainState.from_arrays(arrays))

    def _restore_latest(self) -> None:
        found = self.folder.latest()
        if found is None:
            return
        own = self.stepper.state.arrays()
        arrays = arrays_of_parts(found.arrays, own)
        require_match(own, arrays, str(found.path))
        self.stepper.restore(TrainState.from_arrays(arrays))
        self.progress = Progress.from_json(found.meta)
        self.updates.restore(found.arrays_of(GUESSES))
        self._trained |= frozenset(found.meta.get("trained", ()))
        self.progress.require_batch(self.feed.batch_size, self.folder.path)
        logger.info("resumed %s at update %d", self.folder.path, self.progress.step)

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        progress = self.progress
        self.folder.save(
            progress.step,
            self.stepper.state.arrays() | self.updates.arrays(),
            progress.to_json()
            | self.record().to_json()
            | {"dimension": self.data.dimension},
            keep=self.config.trainer.keep,
            best=progress.best_step,
        )
        logger.info("saved update %d", progress.step)

    def record(self) -> Record:
        """What training does to the model."""
        reached = {part for o in self.objectives.values() for part in o.parts}
        return Record(self._trained | reached, self.data.tokens_per_word)

    def restore_best(self) -> None:
        """Install the weights that ``load`` will take: those of the best checkpoint."""
        self.stepper.install_average()
        if self.progress.best_step != self.progress.step:
            arrays = self.folder.best((MODEL,)).arrays_of(MODEL)
            install_parameters(self.codec.model, arrays)

    # -- one update ----------------------------------------------------------

    def learning_rate(self, step: int, name: str) -> float:
        """Learning rate of update ``step``, on its own objective's schedule."""
        peak = self.objectives[name].settings.peak_lr
        done, own = self.alternation.counts(step)[name], self._updates_of[name]
        return scheduled(self.config.optimizer, peak, done, own)

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
        for number, batch in enumerate(update):
            is_last = number + 1 == len(update)
            batch, key = batch._replace(controls=controls), keys[number % MOST_KEYS]
            with self.engine.launched(f"{objective.name} {step}.{number}") as flight:
                if len(update) == 1:
                    report = self.stepper.update(objective.name, batch, key, lr)
                else:
                    new = self.stepper.micro_gradients(objective.name, batch, key)
                    total = add_gradients(total, new)
                    self.engine.fence(total)
                    self.engine.defer(f"{objective.name} loss sum", total.loss)
                if is_last and total is not None:
                    report = self.stepper.apply(total, batch.rows, lr)
                if is_last:
                    self.engine.fence(self.stepper.arrays())
                    read = self.engine.defer(f"{objective.name} report", report)
            if flights:
                flights[-1].land()
            flights.append(flight)
        return Submitted(step, objective.name, lr, flights, read)

    def values_of(self, submitted: Submitted) -> dict[str, float]:
        """Wait for an update; its values on the host, named for the log.

        Raises:
            FloatingPointError: Loss or gradient is not finite (float16 skips such an
                update and lowers its loss scale instead).
        """
        step, name = submitted.step, submitted.objective
        submitted.flights[-1].land()
        values: dict[str, float] = submitted.report.value()
        for key in ("loss", "grad_norm"):
            value = values[key]
            if not math.isfinite(value) and self.config.precision.dtype != "float16":
                raise FloatingPointError(
                    f"[train] {key} of {name} update {step} must be finite, "
                    f"got {value}."
                )
            values[f"{name}_{key}"] = values.pop(key)
        logger.debug(
            "update %d: %s grad_norm %.4g", step, name, values[f"{name}_grad_norm"]
        )
        return values | {f"{name}_lr": submitted.lr}

    def run_update(self, step: int, update: Update) -> dict[str, float]:
        """Submit update ``step`` and wait for its values; see ``values_of``."""
        return self.values_of(self.submit(step, update))

    def landed(
        self, feed: Iterator[Update], steps: Iterable[int]
    ) -> Iterator[dict[str, float]]:
        """Values of update after update; each is read while the next one computes.

        Nothing is in flight when the values of an update come that a validation or a
        checkpoint follows.

        Args:
            feed: The updates' batches.
            steps: Their numbers.
        """
        flying: tuple[Submitted, float] | None = None
        self._submitted = self.progress.step
        for step in steps:
            self._announce_epoch(step)
            started = time.perf_counter()
            update = next(feed)
            batch_ms = (time.perf_counter() - started) * 1e3
            submitted = self.submit(step, update)
            self._submitted = step + 1
            if flying is not None:
                yield self._landing(*flying)
            flying = submitted, batch_ms
            is_last = self._interrupts.is_asked or self._state_is_wanted(step + 1)
            if self.engine.debug or is_last or self.updates.is_due(step + 1):
                yield self._landing(*flying)
                flying = None
        if flying is not None:
            yield self._landing(*flying)

    def _landing(self, submitted: Submitted, batch_ms: float) -> dict[str, float]:
        values = self.values_of(submitted)
        timings = [f.timing for f in submitted.flights if f.timing is not None]
        self.timings.add(batch_ms, timings)
        return values

    def _state_is_wanted(self, step: int) -> bool:
        """Whether the state after ``step`` updates is measured or saved."""
        settings = self.config.trainer
        every = (settings.validate_every or self.steps_per_epoch, settings.save_every)
        return any(n and self._due(step, n) for n in every)

    # -- the loop ------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train until the last update, early stop or interrupt; returns the summary."""
        settings, progress = self.config.trainer, self.progress
        means = RunningMeans()
        started = time.perf_counter() - progress.seconds
        status = "finished"
        self.codec.model.train()
        self.display.progress(progress.step, self.total, {})
        updates = self.updates.updates(progress.step)
        asked, metrics = self._interrupts, self.folder.open_metrics(self.config)
        with metrics as log, closing(updates) as feed, asked:
            log.truncate_after(progress.step or -1)  # the start is measured anew
            self._followed.truncate_after(progress.step)
            wants_start = any(o.measured_at_start for o in self.objectives.values())
            if wants_start and progress.step == 0:
                self._validate(log)
            try:
                steps = range(progress.step, self.total)
                for values in self.landed(feed, steps):
                    progress.step += 1
                    progress.samples += self.feed.batch_size
                    progress.seconds = time.perf_counter() - started
                    means.add(values)
                    self.display.advance(progress.step, self.total)
                    if self._due(progress.step, settings.log_every):
                        self._report(log, means.take())
                    every = settings.validate_every or self.steps_per_epoch
                    is_end = asked.is_asked and self._submitted == progress.step
                    if self._due(progress.step, every):
                        self._validate(log)
                    elif is_end or self._state_is_wanted(progress.step):
                        self._save_after(log)
                    if is_end:
                        asked.end()
                    if settings.patience and progress.stale >= settings.patience:
                        status = "stopped early"
                        break
                    started = time.perf_counter() - progress.seconds
            except KeyboardInterrupt:
                # After a second interrupt the state may be between two updates.
                saved = max(self.folder.steps(), default=0)
                self.display.message(
                    f"interrupted at update {progress.step}; the same command "
                    f"continues from update {saved}"
                )
                raise
        return self._summary(status)

    def _announce_epoch(self, step: int) -> None:
        epoch, update = divmod(step, self.steps_per_epoch)
        if update == 0:
            logger.info("epoch %d begins at update %d", epoch + 1, step)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.total

    def _report(self, log: MetricsLog, means: dict[str, float]) -> None:
        progress = self.progress
        rate = progress.samples / max(progress.seconds, 1e-9)
        epoch = progress.step / self.steps_per_epoch
        log.write(
            {"kind": "train", "step": progress.step, "epoch": epoch, **means}
            | self.updates.figures()
            | {"samples_per_second": rate, "seconds": progress.seconds}
        )
        traces = sum(self.stepper.traces.values())
        log.write(
            {"kind": "timing", "step": progress.step, **self.timings.take()}
            | self.updates.timings()
            | {"traces": traces}
        )
        self.display.progress(
            progress.step, self.total, means | {"samples_per_second": rate}
        )

    def _validate(self, log: MetricsLog) -> None:
        """Measure the held-out sentences, note the best, save."""
        settings, progress = self.config.trainer, self.progress
        with self.display.doing("validating"):
            metrics = self.group.of_first(self.measure)
            vectors = self.group.of_first(self.validation.vectors)
        measures = measures_of(self.objectives.values(), self.config)
        improved = progress.note(
            metrics[settings.best_metric],
            higher_is_better=measures[settings.best_metric],
            min_delta=settings.min_delta,
        )
        step = progress.step
        log.write({"kind": "validation", "step": step, "best": improved, **metrics})
        if vectors:
            log.write({"kind": "vectors", "step": step, **vectors})
            level = logging.INFO if self.engine.debug else logging.DEBUG
            logger.log(level, "update %d: %s", step, shown(vectors))
        with self.display.doing("writing samples"), self.stepper.averaged():
            written = self.group.of_first(partial(self._followed.write_out, step))
        show_validation(self.display, metrics, progress, written)
        self._save_after(log)

    def _save_after(self, log: MetricsLog) -> None:
        """Save what the log, on the disk by then, has records of."""
        with self.display.doing("saving"):
            log.flush_to_disk()
            self.save()

    def measure(self) -> dict[str, float]:
        """Validation metrics on the first held-out sentences."""
        return self.validation.metrics()

    def _summary(self, status: str) -> dict[str, Any]:
        metric = self.config.trainer.best_metric
        return {
            "name": self.config.name,
            "status": status,
            **self.progress.summary(metric, self.steps_per_epoch),
            **({"init": self.start.to_json()} if self.start else {}),
        }

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
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import install_parameters
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.folder import LOG, MODEL, SAMPLES_LOG, RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.runs.record import Record, Start
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.divergence import (
    Diverged,
    Inquiry,
    listed,
    not_finite,
    require_trained,
)
from energyflow_mlx.training.ending import Ending
from energyflow_mlx.training.feed import Feed, RunData, Update
from energyflow_mlx.training.makers import makers_for
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.one_update import UpdateRunner
from energyflow_mlx.training.reporting import show_validation, shown
from energyflow_mlx.training.samples import FollowedSentences
from energyflow_mlx.training.saving import SaveClock
from energyflow_mlx.training.state import (
    Progress,
    RunningMeans,
    TrainState,
    arrays_of_parts,
)
from energyflow_mlx.training.submitted import Submitted
from energyflow_mlx.training.timing import UpdateTimings
from energyflow_mlx.training.update import Stepper
from energyflow_mlx.training.updates import Updates
from energyflow_mlx.training.validation import Validation, measures_of

logger = logging.getLogger(__name__)


@dataclass
class Trainer(UpdateRunner):
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
    updates: Updates = field(init=False)
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
        self._validate_every = settings.validate_every or self.steps_per_epoch
        self.total = settings.max_steps or settings.epochs * self.steps_per_epoch
        self.alternation = Alternation(shares, self.config.seed)
        self._updates_of = self.alternation.counts(self.total)
        self.validation = Validation(
            self.objectives, self.codec, self.data, self.stepper
        )
        makers = makers_for(
            *(self.config, objectives, self.codec, self.data),
            *(self.feed, self.alternation),
        )
        self.updates = Updates(
            self.feed, makers, self.validation.kept_weights, self.display.doing
        )
        self._trained = self.start.trained if self.start else frozenset()
        self._ending, self._means = Ending(self.group), RunningMeans()
        self._clock = SaveClock(settings.save_minutes if self.group.is_writer else 0)
        self._saved, self._log_digest, self._samples_digest = -1, "", ""
        self._inquiry = Inquiry(
            self.config, self.stepper, self.folder, self.codec.tokenizer, self.group
        )
        self._followed = FollowedSentences.choose(
            self.codec, objectives, self.data, self.folder
        )
        self._resume()

    # -- resuming and saving -------------------------------------------------

    def _resume(self) -> None:
        """Go on from the newest checkpoint, every process with the first one's."""
        if self.group.is_writer:
            self._restore_latest()
        self.progress.take_over(self.group.of_first(self.progress.to_json))
        arrays = self.group.arrays_of_first(self.stepper.state.arrays())
        skipped = self.progress.skipped_in_row
        self.stepper.restore(TrainState.from_arrays(arrays, skipped))

    def _restore_latest(self) -> None:
        found = self.folder.latest()
        if found is None:
            return
        own = self.stepper.state.arrays()
        arrays = arrays_of_parts(found.arrays, own)
        require_match(own, arrays, str(found.path))
        if bad := not_finite(arrays, self.engine):
            raise InputError(
                f"[checkpoint] {found.path} must hold finite numbers, got others in "
                f"{listed(bad)}; remove it to go on from an earlier one."
            )
        self.stepper.restore(TrainState.from_arrays(arrays))
        self.progress.take_over(found.meta)
        self.updates.restore(found)
        self._means = RunningMeans.from_json(found.meta.get("means", {}))
        self._log_digest = found.meta.get(LOG, "")
        self._samples_digest = found.meta.get(SAMPLES_LOG, "")
        self._trained |= Record.from_json(found.meta, ()).trained
        self.progress.require_batch(self.feed.batch_size, self.folder.path)
        logger.info("resumed %s at update %d", self.folder.path, self.progress.step)

    def save(self, log_digest: str = "") -> None:
        """Write a checkpoint of the present state, and the digests of its logs.

        Raises:
            Diverged: The state is not finite; nothing is written.
        """
        progress, updates = self.progress, self.updates
        arrays = self.stepper.state.arrays() | updates.arrays()
        if bad := not_finite(arrays, self.engine):
            raise Diverged(
                f"[train] the state after {progress.step} updates must be finite to be "
                f"saved, got others in {listed(bad)}; try lower learning rates."
            )
        logs = {LOG: log_digest, SAMPLES_LOG: self._followed.digest}
        known = self.record().to_json() | {"dimension": self.data.dimension}
        known |= updates.to_json()
        known |= {"means": self._means.to_json()}
        with self._clock.saving():
            self.folder.save(
                progress.step,
                arrays,
                progress.to_json() | known | logs,
                keep=self.config.trainer.keep,
                best=progress.best_step,
            )
        self._saved = progress.step
        logger.info("saved update %d", progress.step)

    def record(self) -> Record:
        """What training does to the model."""
        reached = {part for o in self.objectives.values() for part in o.parts}
        return Record(self._trained | reached, self.data.tokens_per_word)

    def restore_best(self) -> int:
        """Install the weights that ``load`` will take; returns their update."""
        best = self.folder.best((MODEL,))
        install_parameters(self.codec.model, best.arrays_of(MODEL))
        return int(best.meta["step"])

    # -- updates in flight ---------------------------------------------------

    def landed(
        self, feed: Iterator[Update], steps: Iterable[int]
    ) -> Iterator[dict[str, float]]:
        """Values of update after update; each is read while the next one computes.

        Nothing is in flight when the values of an update come that a validation, a
        checkpoint or the making of examples follows.

        Args:
            feed: The updates' batches.
            steps: Their numbers.
        """
        flying: tuple[Submitted, float] | None = None
        self._submitted = self.progress.step
        for step in steps:
            epoch, number = divmod(step, self.steps_per_epoch)
            if number == 0:
                logger.info("epoch %d begins at update %d", epoch + 1, step)
            started = time.perf_counter()
            update = next(feed)
            batch_ms = (time.perf_counter() - started) * 1e3
            submitted = self.submit(step, update)
            self._submitted = step + 1
            if flying is not None:
                yield self._landing(*flying)
            flying = submitted, batch_ms
            is_last = self._ending.is_after(step + 1) or self._must_land(step + 1)
            if self.engine.debug or is_last:
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
        every = (self._validate_every, self.config.trainer.save_every)
        return self._clock.is_due or any(n and self._due(step, n) for n in every)

    def _must_land(self, step: int) -> bool:
        """Whether nothing may be in flight after ``step`` updates."""
        return self._state_is_wanted(step) or self.updates.is_due(step)

    # -- the loop ------------------------------------------------------------

    def _to_the_end(self, log: MetricsLog) -> Generator[dict[str, float]]:
        """Values of update after update, from the present one, past every rollback."""
        while self.progress.step < self.total:
            with closing(self.updates.updates(self.progress.step)) as feed:
                try:
                    yield from self.landed(feed, range(self.progress.step, self.total))
                except Diverged as error:
                    self._roll_back(error, log)

    def _roll_back(self, error: Diverged, log: MetricsLog) -> None:
        """Go on from the newest checkpoint with lower learning rates.

        Raises:
            Diverged: The configuration says to stop, or this was done often enough.
        """
        settings, done = self.config.trainer, self.progress.rollbacks
        if settings.on_divergence == "stop" or done >= settings.max_rollbacks:
            raise error
        self._resume()
        progress = self.progress
        progress.rollbacks = done + 1
        progress.rate_factor *= settings.rollback_factor
        log.truncate_after(progress.step, self._log_digest)
        self._followed.truncate_after(progress.step, self._samples_digest)
        self._save_after(log)  # whoever resumes goes on with these rates
        logger.warning(
            "%s rolled back to update %d, rollback %d of %d: learning rates times %g",
            *(error, progress.step, progress.rollbacks, settings.max_rollbacks),
            progress.rate_factor,
        )

    def run(self) -> dict[str, Any]:
        """Train until the last update, early stop or interrupt; returns the summary."""
        settings, progress = self.config.trainer, self.progress
        started = time.perf_counter() - progress.seconds
        self.codec.model.train()
        self.display.progress(progress.step, self.total, {})
        ending, metrics = self._ending, self.folder.open_metrics(self.config)
        with metrics as log, closing(self._to_the_end(log)) as updates, ending.held:
            self._open(log)
            if ending.is_after(progress.step):
                ending.end()
            is_stale = progress.is_stale(settings.patience)
            for values in () if is_stale else updates:
                progress.step += 1
                progress.samples += self.feed.batch_size
                progress.seconds = time.perf_counter() - started
                self._means.add(values)
                self.display.advance(progress.step, self.total)
                if self._due(progress.step, settings.log_every):
                    self._report(log, self._means.take())
                is_landed = self._submitted == progress.step
                is_wanted = self._state_is_wanted(progress.step)
                if self._due(progress.step, self._validate_every):
                    self._validate(log)
                elif is_landed and (is_wanted or ending.is_after(progress.step)):
                    self._save_after(log)
                if is_stale := progress.is_stale(settings.patience):
                    break
                if self._saved == progress.step and ending.is_after(progress.step):
                    ending.end()
                started = time.perf_counter() - progress.seconds
        require_trained(progress, self.config)
        return self._summary("stopped early" if is_stale else "finished")

    def _open(self, log: MetricsLog) -> None:
        """Go back to the state's own records; measure the start, once."""
        progress = self.progress
        log.truncate_after(progress.step if progress.is_begun else -1, self._log_digest)
        self._followed.truncate_after(progress.step, self._samples_digest)
        wants_start = any(o.measured_at_start for o in self.objectives.values())
        if wants_start and not progress.is_begun:
            self._validate(log)
        if self.config.trainer.on_divergence == "rollback" and progress.step == 0:
            self._save_after(log)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.total

    def _report(self, log: MetricsLog, means: dict[str, float]) -> None:
        progress = self.progress
        rate = progress.samples / max(progress.seconds, 1e-9)
        epoch = progress.step / self.steps_per_epoch
        log.write(
            {"kind": "train", "step": progress.step, "epoch": epoch, **means}
            | progress.skips()
            | self.updates.figures()
            | {"samples_per_second": rate, "seconds": progress.seconds}
        )
        log.write(
            {"kind": "timing", "step": progress.step, **self.timings.take()}
            | self.updates.timings()
            | {"traces": sum(self.stepper.traces.values())}
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
            self.save(log.digest)

    def measure(self) -> dict[str, float]:
        """Validation metrics on the first held-out sentences."""
        return self.validation.metrics()

    def _summary(self, status: str) -> dict[str, Any]:
        metric = self.config.trainer.best_metric
        return {
            "name": self.config.name,
            "status": status,
            **self.progress.summary(metric, self.steps_per_epoch),
            **self.updates.to_json(),
            **({"init": self.start.to_json()} if self.start else {}),
        }

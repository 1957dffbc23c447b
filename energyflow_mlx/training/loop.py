"""The training loop: next update, step, readback, report, validate, save.

One evaluation per micro-batch, through the readback engine, with parameters and
moments in the fence. The order of batches, objectives, learning rates and random
keys are pure functions of the update's number, so a resumed run continues the same
curve.
"""

import logging
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import BucketBatcher
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.held_out import ValidationSet, validate
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import displacement_scale, exploration_sigma
from energyflow_mlx.model import install_parameters
from energyflow_mlx.readback.engine import ReadbackEngine
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.training.alternation import (
    RECONSTRUCTION,
    objective_counts,
    objective_of,
)
from energyflow_mlx.training.feed import Feed, RunData, token_shares
from energyflow_mlx.training.objectives import Controls, Gradients
from energyflow_mlx.training.progress import Progress, RunningMeans
from energyflow_mlx.training.schedule import learning_rate
from energyflow_mlx.training.update import (
    Stepper,
    TrainState,
    Update,
    add_gradients,
)

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains one model in its run folder.

    Attributes:
        config: The run's configuration.
        codec: Model and tokenizer.
        data: Sentences and vectors.
        folder: Where the run lives.
        display: Where people see it.
        engine: The only place that evaluates.
    """

    config: Config
    codec: SentenceCodec
    data: RunData
    folder: RunFolder
    display: RunDisplay
    engine: ReadbackEngine = field(init=False)
    stepper: Stepper = field(init=False)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Plan the run and take over the newest checkpoint, if there is one."""
        settings = self.config.trainer
        self.engine = ReadbackEngine(debug=settings.debug_timing)
        self.stepper = Stepper(self.codec.model, self.config, self.engine)
        self.batcher = BucketBatcher(
            self.data.train_ids,
            self.data.train_targets,
            vocab_size=self.codec.tokenizer.vocab_size,
            batch_size=settings.micro_batch * settings.accumulate,
            buckets=self.config.data.buckets,
            seed=self.config.seed,
        )
        self.steps_per_epoch = self.batcher.batches_per_epoch
        self.total = settings.max_steps or settings.epochs * self.steps_per_epoch
        self._updates_of = self._counts(self.total)
        self._resume()

    # -- resuming and saving -------------------------------------------------

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.folder.checkpoints)
        if found is None:
            damaged = checkpoint.steps(self.folder.checkpoints)
            if damaged:
                raise InputError(
                    f"[run] {self.folder.checkpoints} must hold a whole checkpoint to "
                    f"resume from, got {len(damaged)} damaged; remove them to restart."
                )
            return
        checkpoint.require_match(
            self.stepper.state.arrays(), found.arrays, str(found.path)
        )
        self.stepper.restore(TrainState.from_arrays(found.arrays))
        self.progress = Progress.from_json(found.meta)
        logger.info("resumed %s at update %d", self.folder.path, self.progress.step)

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        meta = self.progress.to_json() | {"dimension": self.data.dimension}
        checkpoint.save(
            self.folder.checkpoints,
            self.progress.step,
            self.stepper.state.arrays(),
            meta,
            keep=self.config.trainer.keep,
            protect={self.progress.best_step},
        )

    def _counts(self, steps: int) -> dict[str, int]:
        config = self.config
        return objective_counts(steps, config.trainer.ratio, config.seed, config.task)

    def restore_best(self) -> None:
        """Install the weights that ``load`` will take: those of the best checkpoint."""
        best = self.progress.best_step
        if best == self.progress.step:
            return
        path = checkpoint.folder_of(self.folder.checkpoints, best)
        arrays, _ = checkpoint.load(path, groups=("model",))
        weights = {name.split(".", 1)[1]: array for name, array in arrays.items()}
        install_parameters(self.codec.model, weights)

    # -- one update ----------------------------------------------------------

    def learning_rate(self, step: int, objective: str) -> float:
        """Learning rate of update ``step``, on its own objective's schedule."""
        optimizer = self.config.optimizer
        done, own = self._counts(step)[objective], self._updates_of[objective]
        return learning_rate(
            done,
            base=optimizer.decoder_lr if objective == RECONSTRUCTION else optimizer.lr,
            floor=optimizer.min_lr,
            warmup=min(optimizer.warmup_steps, own // 4),
            decay=optimizer.decay_steps or own - min(optimizer.warmup_steps, own // 4),
        )

    def run_update(self, step: int, update: Update) -> dict[str, float]:
        """Run update ``step`` and return its values on the host.

        Raises:
            FloatingPointError: Loss or gradient is not finite (float16 skips such an
                update and lowers its loss scale instead).
        """
        config = self.config
        objective = objective_of(step, config.trainer.ratio, config.seed, config.task)
        lr = self.learning_rate(step, objective)
        keys = mx.random.split(mx.random.key(_mix(config.seed, step)), 64)
        total: Gradients | None = None
        for number, batch in enumerate(update.batches):
            controls = self._controls(step, keys[number % 64])
            with self.engine.batch(f"{objective} {step}.{number}"):
                if len(update.batches) == 1:
                    report = self.stepper.update(
                        objective, batch, update.rows, lr, controls
                    )
                else:
                    new = self.stepper.micro_gradients(
                        objective, batch, update.rows, controls
                    )
                    total = add_gradients(total, new)
                    self.engine.fence(total)
                    if number + 1 < len(update.batches):
                        continue
                    report = self.stepper.apply(total, update.rows, lr)
                self.engine.fence(self.stepper.state.arrays())
                read = self.engine.defer(f"{objective} report", report)
        values: dict[str, float] = read.value()
        self._check_finite(step, objective, values)
        prefix = "decoder_" if objective == RECONSTRUCTION else ""
        named = {f"{objective}_loss": values.pop("loss"), f"{prefix}lr": lr}
        named[f"{prefix}grad_norm"] = values.pop("grad_norm")
        return values | named

    def _controls(self, step: int, key: mx.array) -> Controls:
        lattice = self.config.lattice
        scale = displacement_scale(lattice, step) if lattice else 0.0
        sigma = exploration_sigma(lattice, step) if lattice else 0.0
        return Controls(key, mx.array(scale), mx.array(sigma))

    def _check_finite(
        self, step: int, objective: str, values: dict[str, float]
    ) -> None:
        if self.config.precision.dtype == "float16":
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise FloatingPointError(
                    f"[train] {name} of {objective} update {step} must be finite, "
                    f"got {values[name]}."
                )

    # -- the loop ------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train until the last update, early stop or interrupt; returns the summary."""
        settings, progress = self.config.trainer, self.progress
        means = RunningMeans()
        started = time.perf_counter() - progress.seconds
        status = "finished"
        self.codec.model.train()
        self.display.progress(progress.step, self.total, {})
        with MetricsLog(self.folder.metrics) as log, closing(self._feed()) as feed:
            log.truncate_after(progress.step)
            if self.config.lattice is not None and progress.step == 0:
                self._validate(log)  # the flows before any training
            try:
                while progress.step < self.total:
                    values = self.run_update(progress.step, next(feed))
                    progress.step += 1
                    progress.samples += settings.micro_batch * settings.accumulate
                    progress.seconds = time.perf_counter() - started
                    means.add(values)
                    if self._due(settings.log_every):
                        self._report(log, means.take())
                    if self._due(settings.validate_every or self.steps_per_epoch):
                        self._validate(log)
                    elif settings.save_every and self._due(settings.save_every):
                        self.save()
                    if settings.patience and progress.stale >= settings.patience:
                        status = "stopped early"
                        break
                    started = time.perf_counter() - progress.seconds
            except KeyboardInterrupt:
                # The state may be between two updates: only checkpoints are exact.
                saved = max(checkpoint.steps(self.folder.checkpoints), default=0)
                self.display.message(
                    f"interrupted at update {progress.step}; the same command "
                    f"continues from update {saved}"
                )
                raise
        return self._summary(status)

    def _feed(self) -> Generator[Update]:
        vocabulary = self.codec.tokenizer.vocab_size
        feed = Feed(
            self.batcher,
            accumulate=self.config.trainer.accumulate,
            lazy=self.stepper.lazy,
            candidates=self.config.loss.candidates,
            shares=token_shares(self.data.train_ids, vocabulary),
            seed=self.config.seed,
        )
        return feed.updates(self.progress.step, depth=self.config.data.prefetch)

    def _due(self, every: int) -> bool:
        step = self.progress.step
        return step % every == 0 or step == self.total

    def _report(self, log: MetricsLog, means: dict[str, float]) -> None:
        progress = self.progress
        rate = progress.samples / max(progress.seconds, 1e-9)
        epoch = progress.step / self.steps_per_epoch
        log.write(
            {"kind": "train", "step": progress.step, "epoch": epoch, **means}
            | {"samples_per_second": rate, "seconds": progress.seconds}
        )
        self.display.progress(
            progress.step, self.total, means | {"samples_per_second": rate}
        )

    def _validate(self, log: MetricsLog) -> None:
        """Measure the held-out sentences, note the best, save."""
        metrics = self.measure(self.config.data.val_limit)
        improved = self.progress.note(metrics, self.config.trainer)
        step = self.progress.step
        log.write({"kind": "validation", "step": step, "best": improved, **metrics})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.display.message(f"validation at update {step}: {shown}")
        self.save()

    def measure(self, limit: int) -> dict[str, float]:
        """Validation metrics on the first ``limit`` held-out sentences (0 = all)."""
        held_out = self.data.held_out
        stop = limit or len(held_out.ids)
        part = ValidationSet(
            held_out.texts[:stop], held_out.ids[:stop], held_out.targets[:stop]
        )
        self.codec.model.eval()
        metrics = validate(self.codec, part, self.engine)
        self.codec.model.train()
        return metrics

    def _summary(self, status: str) -> dict[str, Any]:
        progress = self.progress
        return {
            "name": self.config.name,
            "status": status,
            "steps": progress.step,
            "epochs": progress.step / self.steps_per_epoch,
            "seconds": progress.seconds,
            "samples": progress.samples,
            "best": {
                self.config.trainer.best_metric: progress.best_value,
                "step": progress.best_step,
            },
        }


def _mix(seed: int, step: int) -> int:
    """One 64-bit number from seed and step (SplitMix64 finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + step + 1) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)

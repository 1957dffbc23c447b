"""Our side of a whole run: the trainer's own loop, stopped now and then for the other.

The trainer runs as always: batches made on its thread, readback, records, checkpoints.
Where it would validate, it hands over to the other side, and goes on when asked to.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from benchmarks.peers.captions import ab_config, start_model
from benchmarks.peers.settings import Settings
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import lengths_for
from energyflow_mlx.data.batching import BucketBatcher
from energyflow_mlx.evaluation.held_out import vector_metrics
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.loop import Trainer

Pause = Callable[[dict[str, Any]], bool]


class Stopped(Exception):
    """The other end wants no more updates."""


class SilentDisplay:
    """Where the run would be shown."""

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    def advance(self, step: int, total: int) -> None:
        """Show nothing."""

    def lines(self, lines: Sequence[tuple[str, str]]) -> None:
        """Show nothing."""

    def doing(self, what: str) -> AbstractContextManager[None]:
        """Show nothing."""
        return nullcontext()


class PausingTrainer(Trainer):
    """A trainer that hands over where it would validate."""

    def attach(self, pause: Pause, *, measures: bool) -> None:
        """Set what is called there, and whether the held-out cosine is wanted."""
        self._pause, self._measures, self._waited = pause, measures, 0.0

    def measure(self) -> dict[str, float]:
        """Hand over; what the device still computes belongs to the time so far."""
        start = time.perf_counter()
        mx.synchronize()
        self._waited += time.perf_counter() - start
        found = {"cosine": 0.0}
        if self._measures:
            self.codec.model.eval()
            held_out = self.data.held_out
            vectors = self.codec.encode_ids(
                held_out.ids, batch_size=64, normalize=False
            )
            found = vector_metrics(vectors, held_out.targets)
            self.codec.model.train()
        progress = self.progress
        seconds = progress.seconds + self._waited
        told = {"step": progress.step, "seconds": seconds, "cosine": found["cosine"]}
        if not self._pause(told):
            raise Stopped
        return found


class LoopCase:
    """The main job as one run.

    Args:
        settings: Of the comparison.
        data: Sentences and vectors.
        folder: Where the plan of the run goes, for the other side.
        measures: Whether the held-out cosine is wanted at every pause.
    """

    def __init__(
        self, settings: Settings, data: RunData, folder: Path, *, measures: bool
    ) -> None:
        config = ab_config(settings)
        config.trainer.micro_batch = settings.batch
        config.trainer.log_every = config.trainer.validate_every = settings.slice
        config.trainer.keep = 1
        config.data.buckets = lengths_for(data.train_ids, config.data)
        self._runs = tempfile.TemporaryDirectory()
        config.run.dir = self._runs.name
        objectives = build_objectives(config)
        model = start_model(config, data)
        codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
        run = RunFolder(Path(config.run.dir))
        run.begin(config)
        display: Any = SilentDisplay()
        self.trainer = PausingTrainer(config, objectives, codec, data, run, display)
        self._measures = measures
        self.facts = self._describe(settings)
        write_plan(self.trainer, folder)
        weights = {k: np.array(w) for k, w in flat_parameters(model).items()}
        np.savez(folder / "weights.npz", **weights)

    def _describe(self, settings: Settings) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "items": settings.batch,
            "vocabulary": trainer.data.tokenizer.vocab_size,
            "updates": trainer.total,
            "buckets": list(trainer.config.data.buckets),
            "candidates": trainer.config.token_rows.candidates,
            "latent_noise": trainer.config.objectives.reconstruction.latent_noise,
        }

    def run(self, pause: Pause) -> None:
        """Train until there is nothing left or ``pause`` says no."""
        self.trainer.attach(pause, measures=self._measures)
        try:
            self.trainer.run()
        except Stopped:
            pass
        self._runs.cleanup()


def write_plan(trainer: Trainer, folder: Path) -> None:
    """Write batches, objectives and learning rates of every update, and the sentences.

    The other side trains on the very same ones.
    """
    data, config = trainer.data, trainer.config
    batcher = BucketBatcher(
        data.train_ids,
        data.train_targets,
        vocab_size=data.tokenizer.vocab_size,
        batch_size=config.trainer.micro_batch,
        buckets=config.data.buckets,
        seed=config.seed,
    )
    epochs = -(-trainer.total // batcher.batches_per_epoch)
    plan = [entry for epoch in range(epochs) for entry in batcher.plan(epoch)]
    plan = plan[: trainer.total]
    names = [trainer.alternation.objective_of(step) for step in range(len(plan))]
    rates = [trainer.learning_rate(step, name) for step, name in enumerate(names)]
    np.savez(
        folder / "plan.npz",
        bucket=np.array([bucket for bucket, _ in plan]),
        indices=np.stack([indices for _, indices in plan]),
        objective=np.array(names),
        lr=np.array(rates),
        **flat("train", data.train_ids, data.train_targets),
        **flat("held_out", data.held_out.ids, data.held_out.targets),
    )


def flat(
    name: str, ids: Sequence[np.ndarray], targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Sentences as arrays."""
    return {
        f"{name}_ids": np.concatenate(ids),
        f"{name}_lengths": np.array([len(row) for row in ids]),
        f"{name}_targets": targets,
    }

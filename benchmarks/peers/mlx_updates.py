"""Our side of single updates: the trainer's own update and readback, data at hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from benchmarks.peers.captions import ab_config, start_model
from benchmarks.peers.settings import Settings
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import Config
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.readback import Readback, ReadbackEngine
from energyflow_mlx.training.feed import Feed, RunData
from energyflow_mlx.training.objectives.base import StepBatch
from energyflow_mlx.training.update import Stepper

OBJECTIVE = {
    "a": "distillation",
    "b": "reconstruction",
    "candidates": "reconstruction",
}
LR = 1e-4
BATCHES = 8


def case_config(settings: Settings, case: str) -> Config:
    """The main job as one objective with batches of one shape and no noise."""
    config = ab_config(settings)
    config.objectives.reconstruction.latent_noise = 0.0
    config.token_rows.candidates = settings.candidates if case == "candidates" else 0
    config.data.buckets = [settings.bucket]
    config.data.max_length = min(config.data.max_length, settings.bucket)
    config.trainer.micro_batch = settings.batch
    return config


class UpdateCase:
    """Updates of one objective on batches that lie ready on the device.

    Args:
        settings: Of the run.
        case: ``a``, ``b`` or ``candidates``.
        data: Sentences and vectors.
        folder: Where weights and batches go, for the other side.
    """

    def __init__(
        self, settings: Settings, case: str, data: RunData, folder: Path
    ) -> None:
        self.config = case_config(settings, case)
        self.objective = OBJECTIVE[case]
        objectives = build_objectives(self.config)
        self.model = start_model(self.config, data)
        self.engine = ReadbackEngine()
        chosen = [objectives[self.objective]]
        self.stepper = Stepper(self.model, self.config, chosen, self.engine)
        self.model.train()
        updates = Feed(data, self.config).updates(0)
        self.batches = [next(updates)[0] for _ in range(BATCHES)]
        updates.close()
        mx.eval(self.batches)
        self._cycle = itertools.cycle(self.batches)
        self._key = mx.random.key(0)
        self._read: Readback | None = None
        self._write(folder, data)

    def _write(self, folder: Path, data: RunData) -> None:
        weights = flat_parameters(self.model)
        np.savez(folder / "weights.npz", **{k: np.array(w) for k, w in weights.items()})
        for number, batch in enumerate(self.batches):
            np.savez(folder / f"batch_{number}.npz", **batch_arrays(batch))
        tokens = float(sum(b.mask.sum().item() for b in self.batches))
        sentences = sum(len(b.ids) for b in self.batches)
        self.facts: dict[str, Any] = {
            "objective": self.objective,
            "vocabulary": data.tokenizer.vocab_size,
            "mean_tokens": tokens / sentences,
            "items": len(self.batches[0].ids),
            "parameters": sum(w.size for w in weights.values()),
        }

    def call(self) -> None:
        """One update of the next batch, while the last one is computed."""
        before, self._read = self._read, self._launch(next(self._cycle), LR)
        if before is not None:
            before.value()

    def _launch(self, batch: StepBatch, lr: float) -> Readback:
        """Start one update as the trainer does; its values are read later."""
        with self.engine.launched(self.objective):
            report = self.stepper.update(self.objective, batch, self._key, lr)
            self.engine.fence(self.stepper.arrays())
            return self.engine.defer("report", report)

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss, gradients and what one update changes."""
        loss, gradients = self._gradients()
        before = flat_parameters(self.model)
        self._launch(self.batches[0], lr=1e-3).value()
        after = flat_parameters(self.model)
        arrays = {f"gradient {k}": g for k, g in gradients.items()}
        return loss, arrays | {
            f"update {k}": np.array(after[k] - before[k]) for k in gradients
        }

    def _gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss of the first batch and its gradients, whole tables."""
        batch = self.batches[0]
        found = self.stepper.micro_gradients(self.objective, batch, self._key)
        mx.eval(found)
        count = found.count.item()
        gradients = {}
        parameters = flat_parameters(self.model)
        for path, gradient in self.stepper.packing.split(found.gradients).items():
            own = gradient.astype(mx.float32) / count
            table = parameters[path]
            if path in self.stepper.gathered and batch.rows.tokens is not None:
                own = mx.zeros(table.shape).at[batch.rows.tokens].add(own)
            gradients[path] = np.array(own)
        return found.loss.item() / count, gradients


def batch_arrays(batch: StepBatch) -> dict[str, np.ndarray]:
    """A batch on the host, as the other side reads it."""
    arrays = {"ids": batch.ids, "mask": batch.mask, "target": batch.target}
    rows = batch.rows
    every = mx.arange(rows.occurs.size, dtype=mx.int32)  # of tables that are not cut
    arrays["tokens"] = every if rows.tokens is None else rows.tokens
    arrays["place"] = every if rows.place is None else rows.place
    if rows.log_p is not None:
        arrays["log_p"] = rows.log_p
    return {name: np.array(array) for name, array in arrays.items()}

"""Our side: what is trained here, through the trainer's own update and readback.

Run by ``worker``; writes the weights and batches that the other side reads.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from benchmarks.peers.captions import ab_config, load
from benchmarks.peers.settings import Settings
from benchmarks.peers.worker import calls_in, forget_peak_rss, peak_rss, serve, timed
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.model import EnergyFlow, flat_parameters
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runtime import blas, device
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
    """

    def __init__(self, settings: Settings, case: str, data: RunData) -> None:
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

    def update(self, batch: StepBatch | None = None, lr: float = LR) -> dict:
        """One update as the trainer does it, its values read on the host."""
        batch = batch or next(self._cycle)
        with self.engine.batch(self.objective):
            report = self.stepper.update(self.objective, batch, self._key, lr)
            self.engine.fence(self.stepper.state.arrays())
            read = self.engine.defer("report", report)
            self.engine.submit()
        return read.value()

    def gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss of the first batch and its gradients, whole tables."""
        batch = self.batches[0]
        found = self.stepper.micro_gradients(self.objective, batch, self._key)
        mx.eval(found)
        count = found.count.item()
        gradients = {}
        for path, gradient in found.gradients.items():
            own = gradient.astype(mx.float32) / count
            table = self.stepper.state.parameters[path]
            if path in self.stepper.gathered:
                own = mx.zeros(table.shape).at[batch.rows.tokens].add(own)
            gradients[path] = np.array(own)
        return found.loss.item() / count, gradients


def start_model(config: Config, data: RunData) -> EnergyFlow:
    """The model of a run before its first update."""
    parts = parts_of(build_objectives(config))
    size = data.tokenizer.vocab_size
    model = build_model(config, parts, size, data.dimension)
    start_tables(model, config, data.word_embeddings)
    mx.eval(model.parameters())
    return model


def batch_arrays(batch: StepBatch) -> dict[str, np.ndarray]:
    """A batch on the host, as the other side reads it."""
    arrays = {"ids": batch.ids, "mask": batch.mask, "target": batch.target}
    arrays |= {"tokens": batch.rows.tokens, "place": batch.rows.place}
    if batch.rows.log_p is not None:
        arrays["log_p"] = batch.rows.log_p
    return {name: np.array(array) for name, array in arrays.items()}


class MlxSide:
    """What can be asked of our side."""

    def begin(self, settings: dict) -> dict:
        """Choose the device; says what this side is."""
        self.settings = Settings(**settings)
        here = device.select("cpu" if self.settings.device == "cpu" else "auto")
        if self.settings.device == "gpu" and here.backend == "cpu":
            raise RuntimeError("MLX has no GPU here")
        return {
            "mlx": here.mlx_version,
            "device": here.name,
            "backend": here.backend,
            "blas": str(blas.info()),
        }

    def prepare(self, case: str, folder: str) -> dict:
        """Build a case; writes ``weights.npz`` and ``batch_<n>.npz``."""
        data = load(self.settings)
        self._before = peak_rss()
        self.case = UpdateCase(self.settings, case, data)
        weights = flat_parameters(self.case.model)
        np.savez(
            Path(folder) / "weights.npz", **{k: np.array(w) for k, w in weights.items()}
        )
        for number, batch in enumerate(self.case.batches):
            np.savez(Path(folder) / f"batch_{number}.npz", **batch_arrays(batch))
        tokens = float(sum(b.mask.sum().item() for b in self.case.batches))
        count = sum(len(b.ids) for b in self.case.batches)
        return {
            "vocabulary": data.tokenizer.vocab_size,
            "mean_tokens": tokens / count,
            "objective": self.case.objective,
            "parameters": sum(w.size for w in weights.values()),
        }

    def agree(self, output: str) -> dict:
        """Loss, gradients and what one update changes, written to a file."""
        loss, gradients = self.case.gradients()
        before = flat_parameters(self.case.model)
        self.case.update(self.case.batches[0], lr=1e-3)
        after = flat_parameters(self.case.model)
        arrays = {f"gradient {k}": g for k, g in gradients.items()}
        arrays |= {f"update {k}": np.array(after[k] - before[k]) for k in gradients}
        np.savez(output, **arrays)
        return {"loss": loss}

    def settle(self) -> dict:
        """Warm up; how many updates make a sample."""
        self.count = calls_in(self.settings.seconds, self.case.update, mx.synchronize)
        forget_peak_rss()
        mx.reset_peak_memory()
        return {"count": self.count}

    def sample(self) -> dict:
        """Time one sample, in ms an update."""
        seconds = timed(self.case.update, mx.synchronize, self.count)
        return {"ms": seconds / self.count * 1e3}

    def memory(self) -> dict[str, Any]:
        """Peak since ``settle``: of the process, and as MLX counts its arrays."""
        return {"rss_bytes": peak_rss(), "array_bytes": mx.get_peak_memory()}


if __name__ == "__main__":
    serve(MlxSide())

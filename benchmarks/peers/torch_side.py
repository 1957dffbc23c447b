"""The other side: the PyTorch twin. Run by ``worker``; needs PyTorch and NumPy alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.settings import Settings
from benchmarks.peers.torch_model import TwinBatch, packed
from benchmarks.peers.torch_training import TwinStepper, Variant, worth_trying
from benchmarks.peers.worker import calls_in, forget_peak_rss, peak_rss, serve, timed

LR = 1e-4


class UpdateCase:
    """Updates of one objective on batches that lie ready on the device."""

    def __init__(
        self, folder: Path, objective: str, variant: Variant, device: str
    ) -> None:
        weights = dict(np.load(folder / "weights.npz"))
        self.stepper = TwinStepper(weights, variant, device)
        self.objective = objective
        files = sorted(folder.glob("batch_*.npz"))
        self.batches = [
            packed(dict(np.load(f)), variant.multiple, device) for f in files
        ]
        self._cycle = itertools.cycle(self.batches)

    def update(self, batch: TwinBatch | None = None, lr: float = LR) -> None:
        """One update; nothing is read on the host."""
        self.stepper.update(self.objective, batch or next(self._cycle), lr)


class TorchSide:
    """What can be asked of the twin."""

    case: UpdateCase

    def begin(self, settings: dict) -> dict:
        """Choose the device; says what this side is."""
        self.settings = Settings(**settings)
        self.device = "cpu" if self.settings.device == "cpu" else "cuda"
        torch.set_num_threads(self.settings.threads)
        torch.set_float32_matmul_precision("highest")
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if self.device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
        return facts

    def variants(self) -> dict:
        """Forms to choose from."""
        if self.settings.variants:
            return {"variants": self.settings.variants.split(",")}
        found = worth_trying(self.device, self.settings.precision)
        return {"variants": [variant.name for variant in found]}

    def prepare(self, objective: str, folder: str, variant: str) -> dict:
        """Build a case in one form from what our side wrote."""
        self.case = UpdateCase(
            Path(folder), objective, Variant.parse(variant), self.device
        )
        return {}

    def agree(self, output: str) -> dict:
        """Loss, gradients and what one update changes, written to a file."""
        stepper, batch = self.case.stepper, self.case.batches[0]
        loss, _ = stepper.backward(self.case.objective, batch)
        gradients = stepper.gradients()
        before = stepper.weights(gradients)
        self.case.update(batch, lr=1e-3)
        after = stepper.weights(gradients)
        arrays = {f"gradient {k}": g for k, g in gradients.items()}
        arrays |= {f"update {k}": after[k] - before[k] for k in gradients}
        np.savez(output, **arrays)
        return {"loss": loss.item()}

    def settle(self) -> dict:
        """Warm up; how many updates make a sample."""
        self.count = calls_in(self.settings.seconds, self.case.update, self.wait)
        forget_peak_rss()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return {"count": self.count}

    @property
    def wait(self) -> Callable[[], Any]:
        """Returns when everything that was called is done."""
        return torch.cuda.synchronize if self.device == "cuda" else lambda: None

    def sample(self) -> dict:
        """Time one sample, in ms an update."""
        seconds = timed(self.case.update, self.wait, self.count)
        return {"ms": seconds / self.count * 1e3}

    def memory(self) -> dict:
        """Peak since ``settle``: of the process, and of the GPU's arrays."""
        found = {"rss_bytes": peak_rss()}
        if self.device == "cuda":
            found["array_bytes"] = torch.cuda.max_memory_allocated()
        return found


if __name__ == "__main__":
    serve(TorchSide())

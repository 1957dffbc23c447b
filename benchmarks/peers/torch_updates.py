"""The twin's side of single updates, on batches that lie ready on the device."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from benchmarks.peers.torch_model import packed, targets
from benchmarks.peers.torch_training import TwinStepper, Variant

LR = 1e-4


class UpdateCase:
    """Updates of one objective.

    Args:
        folder: What our side wrote.
        objective: Its name.
        variant: Form of the twin.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(
        self, folder: Path, objective: str, variant: Variant, device: str
    ) -> None:
        weights = dict(np.load(folder / "weights.npz"))
        self.stepper = TwinStepper(weights, variant, device, dynamic=False)
        self.objective = objective
        files = sorted(folder.glob("batch_*.npz"))
        batches = [dict(np.load(file)) for file in files]
        places = variant.places(max(map(targets, batches)))
        self.batches = [packed(arrays, places, device) for arrays in batches]
        self._cycle = itertools.cycle(self.batches)

    def call(self) -> None:
        """One update of the next batch; nothing is read on the host."""
        self.stepper.update(self.objective, next(self._cycle), LR)

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss, gradients and what one update changes."""
        stepper, batch = self.stepper, self.batches[0]
        loss, _ = stepper.backward(self.objective, batch)
        gradients = stepper.gradients()
        before = stepper.weights(gradients)
        stepper.update(self.objective, batch, lr=1e-3)
        after = stepper.weights(gradients)
        arrays = {f"gradient {k}": g for k, g in gradients.items()}
        arrays |= {f"update {k}": after[k] - before[k] for k in gradients}
        return loss.item(), arrays

"""The twin's side of a whole run: batches made on a thread, one update after another.

The same batches, learning rates and start as ours. The negatives of the sampled
softmax, drawn by the same rule, and the latent noise are the twin's own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.settings import Settings
from benchmarks.peers.torch_model import TwinBatch, packed, targets
from benchmarks.peers.torch_training import TwinStepper, Variant

_AHEAD = 2  # batches that lie ready, as many as ours


class Sentences:
    """Token ids and vectors of a set.

    Args:
        arrays: Of ``mlx_loop.write_plan``.
        name: ``train`` or ``held_out``.
    """

    def __init__(self, arrays: Any, name: str) -> None:
        self.flat = arrays[f"{name}_ids"]
        self.lengths = arrays[f"{name}_lengths"]
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.targets = arrays[f"{name}_targets"]

    def batch(self, indices: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Padded arrays; see ``mlx_side.batch_arrays``."""
        lengths = self.lengths[indices]
        mask = np.arange(length) < lengths[:, None]
        ids = np.zeros((len(indices), length), np.int64)
        ids[mask] = np.concatenate(
            [
                self.flat[s : s + n]
                for s, n in zip(self.starts[indices], lengths, strict=True)
            ]
        )
        found = {"ids": ids, "mask": mask.astype(np.float32)}
        return found | {"target": self.targets[indices]}


class Candidates:
    """Draws the rows of a sampled softmax: those that occur, and others uniformly.

    Args:
        sentences: Training sentences, for the tokens' shares.
        vocabulary: Tokens V.
        count: Rows U.
    """

    def __init__(self, sentences: Sentences, vocabulary: int, count: int) -> None:
        counts = np.bincount(sentences.flat, minlength=vocabulary)
        self._log_absent = np.log1p(-counts / counts.sum())
        self._vocabulary, self._count = vocabulary, min(count, vocabulary)
        self._random = np.random.default_rng(0)

    def draw(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows, the place of each token and the log probabilities of a batch."""
        absent = np.ones(self._vocabulary, bool)
        absent[arrays["ids"]] = False
        occurring, others = np.flatnonzero(~absent), np.flatnonzero(absent)
        drawn = max(0, self._count - len(occurring))
        negatives = self._random.choice(others, drawn, replace=False)
        tokens = np.concatenate([occurring, negatives])
        place = np.zeros(self._vocabulary, np.int64)
        place[occurring] = np.arange(len(occurring))
        occurs = 1 - np.exp(arrays["mask"].sum() * self._log_absent[tokens])
        drawing = max(drawn / max(len(others), 1), 1e-6)
        log_p = np.log(occurs + (1 - occurs) * drawing).astype(np.float32)
        return {"tokens": tokens, "place": place, "log_p": log_p}


class LoopCase:
    """The main job as one run of the twin.

    Args:
        folder: What our side wrote.
        facts: What our side told of the case.
        settings: Of the comparison.
        variant: Form of the twin.
        device: ``cpu`` or ``cuda``.
        measures: Whether the held-out cosine is wanted at every pause.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        settings: Settings,
        variant: Variant,
        device: str,
        *,
        measures: bool,
    ) -> None:
        weights = dict(np.load(folder / "weights.npz"))
        self.stepper = TwinStepper(weights, variant, device, dynamic=None)
        self.stepper.model.latent_noise = facts["latent_noise"]
        self._plan = dict(np.load(folder / "plan.npz"))
        self._train = Sentences(self._plan, "train")
        self._held_out = Sentences(self._plan, "held_out")
        self._buckets, self._every = facts["buckets"], settings.slice
        self._variant, self._device = variant, device
        self._measures = measures
        self._candidates = Candidates(
            self._train, facts["vocabulary"], facts["candidates"]
        )

    def run(self, pause: Callable[[dict[str, Any]], bool]) -> None:
        """Train until there is nothing left or ``pause`` says no."""
        names, rates = self._plan["objective"], self._plan["lr"]
        wait = torch.cuda.synchronize if self._device == "cuda" else lambda: None
        seconds, start = 0.0, time.perf_counter()
        for step, batch in enumerate(self._ahead(), start=1):
            loss, _ = self.stepper.update(
                str(names[step - 1]), batch, float(rates[step - 1])
            )
            if step % self._every and step < len(names):
                continue
            loss.item()  # shown now and then, as a script does
            wait()
            seconds += time.perf_counter() - start
            cosine = self._cosine() if self._measures else 0.0
            if not pause({"step": step, "seconds": seconds, "cosine": cosine}):
                return
            start = time.perf_counter()

    def _batches(self) -> Iterator[TwinBatch]:
        plan = self._plan
        for bucket, indices, name in zip(
            plan["bucket"], plan["indices"], plan["objective"], strict=True
        ):
            arrays = self._train.batch(indices, int(bucket))
            if name == "reconstruction":
                arrays |= self._candidates.draw(arrays)
            places = self._variant.places(targets(arrays))
            yield packed(arrays, places, self._device)

    def _ahead(self) -> Iterator[TwinBatch]:
        """Batches, made on a thread."""
        ready: queue.Queue = queue.Queue(_AHEAD)

        def work() -> None:
            for batch in self._batches():
                ready.put(batch)
            ready.put(None)

        threading.Thread(target=work, daemon=True).start()
        while (batch := ready.get()) is not None:
            yield batch

    @torch.no_grad()
    def _cosine(self) -> float:
        """Mean cosine on the held-out sentences."""
        held_out, total = self._held_out, 0.0
        for start in range(0, len(held_out.lengths), 64):
            rows = np.arange(start, min(start + 64, len(held_out.lengths)))
            longest = int(held_out.lengths[rows].max())
            length = next(b for b in self._buckets if b >= longest)
            batch = packed(held_out.batch(rows, length), 0, self._device)
            total += self.stepper.model.distillation(batch)[1].item() * len(rows)
        return total / len(held_out.lengths)

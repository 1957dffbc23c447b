"""One training step of the default ``ab`` model, for the benchmarks of a step.

Real sentences in one bucket of 24 tokens, targets drawn at random: what a step costs
does not depend on them. The student's vocabulary is that of the sentences, or with
``full_vocabulary`` the teacher's.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.teacher import teacher_from
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.feed import Feed, RunData
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.update import Stepper

LENGTH, DIMENSION, SENTENCES = 24, 384, 20_000


@dataclass(frozen=True)
class Case:
    """What is stepped.

    Attributes:
        objective: ``distillation`` or ``reconstruction``.
        batch: Sentences B of an update.
        dtype: Compute format.
        candidates: Candidates of the softmax; 0 = the whole vocabulary.
        full_vocabulary: Take the teacher's vocabulary.
    """

    objective: str = "distillation"
    batch: int = 512
    dtype: str = "bfloat16"
    candidates: int = 0
    full_vocabulary: bool = False

    def config(self) -> Config:
        """Configuration of the ``ab`` experiment with this case's settings."""
        config = Config()
        config.objectives.reconstruction.latent_noise = 0.1
        config.token_rows.candidates = self.candidates
        config.data.buckets = [LENGTH]
        config.data.max_length = LENGTH
        config.precision.dtype = self.dtype
        config.trainer.micro_batch = self.batch
        return config


@dataclass
class Sentences:
    """Token ids of real sentences in the vocabulary they need and in the teacher's.

    Attributes:
        texts: The sentences.
        tokenizer: The teacher's ``tokenizer.json``.
    """

    texts: list[str]
    tokenizer: Path

    @classmethod
    def read(cls, text: Path | None, tokenizer: Path | None) -> Sentences:
        """Take a file's first sentences, or built-in captions; the teacher's pieces."""
        if text is None:
            texts = generate_captions(SENTENCES, seed=0)
        else:
            data = text.read_bytes()
            stream = io.BytesIO(data)
            if text.suffix == ".gz":
                data = gzip.GzipFile(fileobj=stream).read()
            texts = data.decode().splitlines()[:SENTENCES]
        path = tokenizer or teacher_from(Config().teacher).tokenizer_path
        return cls(texts, Path(path))

    def data(self, full_vocabulary: bool) -> RunData:
        """Everything a feed reads."""
        corpus = None if full_vocabulary else self.texts
        tokenizer = Tokenizer.from_source(self.tokenizer, corpus)
        ids = tokenizer.encode(self.texts, LENGTH)
        random = np.random.default_rng(0)
        targets = random.standard_normal((len(ids), DIMENSION), np.float32)
        return run_data(tokenizer, self.texts, ids, targets)


def run_data(
    tokenizer: Tokenizer, texts: list[str], ids: list[np.ndarray], targets: np.ndarray
) -> RunData:
    """What a feed reads of sentences, their ids and targets of any length."""
    targets = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    return RunData(
        tokenizer=tokenizer,
        train_ids=ids,
        train_targets=targets,
        held_out=HeldOut(texts=texts[:1], ids=ids[:1], targets=targets[:1]),
        word_embeddings=None,
        dimension=DIMENSION,
        source="benchmark",
        teacher="none",
        embed=None,
    )


class Step:
    """Updates of one case, one after another."""

    def __init__(self, case: Case, data: RunData, rate: float = 1e-3) -> None:
        """Build model, stepper and feed; ``rate`` is the learning rate."""
        mx.random.seed(0)
        config = case.config()
        made = build_objectives(config)
        vocabulary = data.tokenizer.vocab_size
        model = build_model(config, parts_of(made), vocabulary, DIMENSION)
        model.train()
        self.vocabulary = vocabulary
        self.stepper = Stepper(model, config, list(made.values()))
        self._case, self._rate = case, rate
        self._updates: Iterator[list[StepBatch]] = Feed(data, config).updates(0)
        self._number = 0

    def batches(self, count: int) -> list[StepBatch]:
        """The next batches, on the device."""
        found = [next(self._updates)[0] for _ in range(count)]
        mx.eval(*[b.ids for b in found], *[b.target for b in found])
        return found

    def update(self, batch: StepBatch) -> mx.array:
        """One update; its lazy loss, which everything else hangs on."""
        self._number += 1
        key = mx.random.key(self._number)
        report = self.stepper.update(self._case.objective, batch, key, self._rate)
        return report["loss"]

    def start(self, loss: mx.array) -> None:
        """Hand an update to the device without waiting."""
        mx.async_eval(loss, self.arrays())

    def arrays(self) -> Any:
        """Parameters and moments, whichever checkout's they are."""
        if hasattr(self.stepper, "arrays"):
            return self.stepper.arrays()
        return self.stepper.state.arrays()

    def gradients(self, batch: StepBatch) -> mx.array:
        """Gradients alone."""
        self._number += 1
        key = mx.random.key(self._number)
        found = self.stepper.micro_gradients(self._case.objective, batch, key)
        mx.eval(found)
        return found.loss

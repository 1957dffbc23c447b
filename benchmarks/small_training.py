"""Small trainings that run on any device from a bare checkout, for the benchmarks.

Linear regression, an MLP, and the default encoder (objective A) and decoder (B) on
built-in captions. Weights and batches come from fixed seeds, so that two devices train
the same thing. MLX, NumPy and tokenizers are all they need.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import training_step as ts  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.feed import RunData

CAPTIONS, VOCABULARY, BATCHES = 2000, 1500, 16


@dataclass
class Training:
    """Something that learns, one update after another.

    Attributes:
        update: Builds the next update; gives its lazy loss.
        arrays: What an update changes, to be computed with the loss.
    """

    update: Callable[[], mx.array]
    arrays: Callable[[], Any]

    def run(self, updates: int) -> list[float]:
        """Losses of the next updates, each computed before the next is built."""
        losses = []
        for _ in range(updates):
            loss = self.update()
            mx.eval(loss, self.arrays())
            losses.append(float(loss.item()))
        return losses


def linear_regression(size: int = 512, width: int = 64) -> Training:
    """Least squares by AdamW on noisy linear data, ``[size, width]``."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES, size, width), np.float32)
    y = x @ rng.standard_normal((width, 1), np.float32)
    y += 0.1 * rng.standard_normal(y.shape, np.float32)
    return _supervised(nn.Linear(width, 1), nn.losses.mse_loss, (x, y), 0.1)


def mlp(size: int = 512, width: int = 256, classes: int = 10) -> Training:
    """A perceptron with two hidden layers of 512 sorts what a random one labels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES, size, width), np.float32)
    y = np.argmax(x @ rng.standard_normal((width, classes), np.float32), -1)
    layers = (nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    model = nn.Sequential(*layers, nn.Linear(512, classes))
    loss = partial(nn.losses.cross_entropy, reduction="mean")
    return _supervised(model, loss, (x, y.astype(np.int32)), 1e-3)


def _supervised(
    model: nn.Module,
    loss: Callable[..., mx.array],
    data: tuple[np.ndarray, np.ndarray],
    rate: float,
) -> Training:
    """One compiled update: loss, gradients, AdamW."""
    _seeded(model)
    optimizer = optim.AdamW(rate)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]
    mx.eval(state)

    def loss_of(x: mx.array, y: mx.array) -> mx.array:
        return loss(model(x), y)

    gradients = nn.value_and_grad(model, loss_of)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        value, found = gradients(x, y)
        optimizer.update(model, found)
        return value

    pairs = [(mx.array(x), mx.array(y)) for x, y in zip(*data, strict=True)]
    batches = itertools.cycle(pairs)
    return Training(lambda: step(*next(batches)), lambda: state)


def _seeded(model: nn.Module) -> None:
    """Weights from NumPy: a device's own random numbers may differ in the last bit."""
    rng = np.random.default_rng(1)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shape = module.weight.shape
            bound = shape[1] ** -0.5
            module.weight = mx.array(rng.uniform(-bound, bound, shape), mx.float32)
            module.bias = mx.zeros(shape[0])


def encoder(batch: int = 64) -> Training:
    """Objective A: the default encoder learns a vector of each caption."""
    return _step("distillation", batch)


def decoder(batch: int = 64) -> Training:
    """Objective B: the default decoder learns to write captions from vectors."""
    return _step("reconstruction", batch)


def _step(objective: str, batch: int) -> Training:
    step = ts.Step(ts.Case(objective, batch, "float32"), captions(), 3e-4)
    batches = itertools.cycle(step.batches(BATCHES))
    return Training(lambda: step.update(next(batches)), step.arrays)


def captions() -> RunData:
    """Built-in captions in a vocabulary of their own; a vector is its words' sum."""
    texts = generate_captions(CAPTIONS, seed=0)
    tokenizer = Tokenizer.train_bpe(texts, VOCABULARY)
    ids = tokenizer.encode(texts, ts.LENGTH)
    shape = (tokenizer.vocab_size, ts.DIMENSION)
    words = np.random.default_rng(2).standard_normal(shape, np.float32)
    targets = np.stack([words[row].sum(0) for row in ids])
    return ts.run_data(tokenizer, texts, ids, targets)

"""Validation: how close vectors are, how well they find their own, how well they read.

Metrics on the held-out sentences, computed through the readback engine in batches.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import cover, pad_rows
from energyflow_mlx.evaluation.generation import score_generation
from energyflow_mlx.evaluation.retrieval import precision_at
from energyflow_mlx.evaluation.similarity import cosine_rows, mse_rows
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import LatticeOutput
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback.engine import ReadbackEngine


@dataclass
class ValidationSet:
    """Held-out sentences.

    Attributes:
        texts: The sentences; empty in token mode.
        ids: Token ids of each.
        targets: The teacher's vectors, ``[N, E]``.
    """

    texts: Sequence[str]
    ids: Sequence[np.ndarray]
    targets: np.ndarray


def vector_metrics(vectors: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Mean cosine and MSE, and P@1, P@5, P@10 of finding one's own target.

    Args:
        vectors: The student's, ``[N, E]``.
        targets: The teacher's, ``[N, E]``.
    """
    metrics = {
        "cosine": float(np.mean(cosine_rows(vectors, targets))),
        "mse": float(np.mean(mse_rows(vectors, targets))),
    }
    found = precision_at(vectors, targets, (1, 5, 10))
    return metrics | {f"p_at_{k}": value for k, value in found.items()}


def decoding_metrics(texts: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """BLEU, share of exact matches and token F1 of decoded sentences."""
    scores = score_generation(texts, truth)
    return {
        "bleu": scores.bleu,
        "exact": scores.exact,
        "token_f1": scores.token_f1,
    }


def mean_cross_entropy(
    codec: SentenceCodec,
    held_out: ValidationSet,
    engine: ReadbackEngine,
    batch_size: int = 64,
) -> float:
    """Cross entropy per real target token, teacher forced, in nats.

    Args:
        codec: The model.
        held_out: Sentences and the vectors they are decoded from.
        engine: Evaluates one batch at a time.
        batch_size: Sentences per forward pass.
    """
    total, count = 0.0, 0.0
    buckets = codec.config.data.buckets
    for bucket, members in cover(held_out.ids, buckets, batch_size):
        ids, mask = pad_rows([held_out.ids[i] for i in members], bucket)
        z = np.asarray(held_out.targets[members], np.float32)
        with engine.batch("validation"):
            sums = codec.cross_entropy(mx.array(ids), mx.array(mask), mx.array(z))
            read = engine.defer("cross entropy", sums)
        loss, targets = read.value()
        total, count = total + loss, count + targets
    return total / max(count, 1.0)


def validate(
    codec: SentenceCodec, held_out: ValidationSet, engine: ReadbackEngine
) -> dict[str, float]:
    """Metrics of the parts that the run trains.

    Cosine, MSE and retrieval where vectors are made; cross entropy where text is;
    the flows' statistics where there is a lattice.

    Args:
        codec: The model in evaluation mode.
        held_out: Held-out sentences.
        engine: The run's readback engine.
    """
    config = codec.config
    metrics: dict[str, float] = {}
    goal = held_out.targets[:, : codec.dimension]
    if config.task == "flow":
        sources = held_out.targets[:, -codec.dimension :]
        vectors, statistics = flow_vectors(codec.model, sources, engine)
        metrics = vector_metrics(vectors, goal) | statistics
    elif config.task == "flow_text":
        vectors, statistics = text_flow_vectors(codec, held_out.ids, engine)
        metrics = vector_metrics(vectors, goal) | statistics
    elif config.trainer.ratio > 0:
        vectors = codec.encode_ids(held_out.ids, batch_size=64, normalize=False)
        metrics = vector_metrics(vectors, goal)
    if config.trainer.ratio < 1:
        metrics["ce"] = mean_cross_entropy(codec, held_out, engine)
    return metrics


def flow_vectors(
    model: EnergyFlow, sources: np.ndarray, engine: ReadbackEngine, size: int = 16
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors that come out of the lattice, and the flows' mean statistics.

    Args:
        model: Model with a lattice, in evaluation mode.
        sources: Vectors that go in, ``[N, E]``.
        engine: Evaluates one batch at a time.
        size: Vectors of a batch.
    """
    count = len(sources)
    batches = (np.arange(i, min(i + size, count)) for i in range(0, count, size))
    outputs = (
        (members, partial(model.lattice, mx.array(sources[members], mx.float32)))
        for members in batches
    )
    return _collect(outputs, sources.shape, engine)


def text_flow_vectors(
    codec: SentenceCodec, rows: Sequence[np.ndarray], engine: ReadbackEngine
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors of sentences that went through the lattice, and the flows' statistics.

    Args:
        codec: Model with an encoder and a lattice, in evaluation mode.
        rows: Token ids of each sentence.
        engine: Evaluates one batch at a time.
    """
    model = codec.model

    def through(ids: np.ndarray, mask: np.ndarray) -> LatticeOutput:
        surface = model.encode_surface(mx.array(ids), mx.array(mask))
        return model.lattice.from_surface(surface)

    outputs = (
        (members, partial(through, *pad_rows([rows[i] for i in members], bucket)))
        for bucket, members in cover(rows, codec.config.data.buckets, 16)
    )
    return _collect(outputs, (len(rows), codec.dimension), engine)


def _collect(
    outputs: Iterable[tuple[np.ndarray, Callable[[], LatticeOutput]]],
    shape: tuple[int, ...],
    engine: ReadbackEngine,
) -> tuple[np.ndarray, dict[str, float]]:
    """Evaluate batch after batch; vectors by place, statistics as means over rows."""
    vectors = np.zeros(shape, np.float32)
    sums: dict[str, float] = {}
    for members, forward in outputs:
        with engine.batch("flows"):
            output = forward()
            read = engine.defer("flows", (output.vector, output.statistics))
        vectors[members], statistics = read.value()
        for name, value in statistics.items():
            sums[f"flow_{name}"] = sums.get(f"flow_{name}", 0.0) + value * len(members)
    return vectors, {name: total / len(vectors) for name, total in sums.items()}

"""Validation: how close vectors are, how well they find their own, how well they read.

Metrics on the held-out sentences, computed through the readback engine in batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.evaluation.generation import score_generation
from energyflow_mlx.evaluation.retrieval import precision_at
from energyflow_mlx.evaluation.similarity import cosine_rows, mse_rows
from energyflow_mlx.inference import SentenceCodec, cover
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine


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
    vectors = np.zeros_like(sources, dtype=np.float32)
    sums: dict[str, float] = {}
    for start in range(0, len(sources), size):
        part = np.asarray(sources[start : start + size], np.float32)
        with engine.batch("flows"):
            output = model.lattice(mx.array(part))
            read = engine.defer("flows", (output.vector, output.statistics))
        vectors[start : start + size], statistics = read.value()
        for name, value in statistics.items():
            sums[f"flow_{name}"] = sums.get(f"flow_{name}", 0.0) + value * len(part)
    return vectors, {name: total / len(sources) for name, total in sums.items()}

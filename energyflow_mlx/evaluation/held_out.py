"""Held-out sentences: how close vectors are, how well they find their own, their text.

Computed through the readback engine in batches. ``final_metrics`` is the one table of a
model, at the end of training and by the evaluate command.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from energyflow_mlx.config.data import LONGEST
from energyflow_mlx.data.batching import cover, pad_rows
from energyflow_mlx.evaluation.corrections import Written
from energyflow_mlx.evaluation.generation import decoding_metrics
from energyflow_mlx.evaluation.reachable import reach
from energyflow_mlx.evaluation.retrieval import confusions, precision_at
from energyflow_mlx.evaluation.similarity import (
    cosine_rows,
    mse_rows,
    similarity_score,
)
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import LatticeOutput
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.text.generation import Decoding

_MOST_QUERIES = 1000  # held-out sentences among which confused ones are looked for
_MOST_CONFUSED = 50  # of them that are kept, the worst first

Embed = Callable[[Sequence[str]], np.ndarray]
# Rows of a batch, and what sends them through the lattice.
Pass = tuple[np.ndarray, Callable[[], LatticeOutput]]


@dataclass(frozen=True)
class HeldOut:
    """Held-out sentences.

    Attributes:
        texts: The sentences; empty in token mode.
        ids: Token ids of each.
        targets: The teacher's vectors, ``[N, E]``; with pairs ``[N, 2E]``.
    """

    texts: Sequence[str]
    ids: Sequence[np.ndarray]
    targets: np.ndarray

    def first(self, count: int) -> "HeldOut":
        """The first ``count`` sentences; 0 = all."""
        stop = count or len(self.ids)
        return HeldOut(self.texts[:stop], self.ids[:stop], self.targets[:stop])

    def spread(self, count: int) -> "HeldOut":
        """``count`` sentences with text, evenly spread over the set."""
        return self.subset(self.spread_rows(count))

    def spread_rows(self, count: int) -> np.ndarray:
        """Numbers of ``count`` sentences with text, evenly spread over the set."""
        count = min(count, len(self.texts))
        return np.linspace(0, len(self.texts) - 1, count).astype(int)

    def subset(self, numbers: np.ndarray) -> "HeldOut":
        """Sentences with text, by their numbers ``[n]``, in that order."""
        return HeldOut(
            [self.texts[i] for i in numbers],
            [self.ids[i] for i in numbers],
            self.targets[numbers],
        )


class ReadBack(NamedTuple):
    """Sentences as a model wrote them.

    Attributes:
        suffix: End of the metrics' names; empty for the plain path.
        texts: What was written.
        truth: The sentences.
    """

    suffix: str
    texts: Sequence[str]
    truth: HeldOut


class Measured(Protocol):
    """What can be measured on held-out sentences: the objectives of a run.

    Attributes:
        reads_text: Its vectors are those of sentences.
    """

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Metrics of the parts that it trains."""

    def read_back(self, codec: SentenceCodec, held_out: HeldOut) -> list[ReadBack]:
        """Held-out sentences as the model writes them, one entry for each path."""

    reads_text: ClassVar[bool]

    def vectors(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> np.ndarray | None:
        """Its vectors of held-out sentences, ``[N, E]``; none where it has none."""


def validate(
    codec: SentenceCodec,
    objectives: Iterable[Measured],
    held_out: HeldOut,
    engine: ReadbackEngine,
) -> dict[str, float]:
    """Metrics of every objective together; see ``Measured``."""
    metrics: dict[str, float] = {}
    for objective in objectives:
        metrics |= objective.validate(codec, held_out, engine)
    return metrics


def final_metrics(
    codec: SentenceCodec,
    objectives: Sequence[Measured],
    held_out: HeldOut,
    *,
    samples: int,
    embed: Embed | None,
) -> dict[str, float]:
    """The table of a model: validation on all sentences, decoding of some.

    Args:
        codec: The model in evaluation mode.
        objectives: What it was trained for.
        held_out: Sentences and their vectors.
        samples: Sentences to decode greedily, evenly spread; 0 = none.
        embed: The teacher's vectors of texts, to measure how near decoded sentences
            come in meaning; none where the teacher cannot read.
    """
    metrics = validate(codec, objectives, held_out, ReadbackEngine())
    sample = held_out.spread(samples)
    if not sample.texts:
        return metrics
    for objective in objectives:
        for written in objective.read_back(codec, sample):
            found = decoding_metrics(written.texts, written.truth.texts)
            if embed is not None:
                again = cosine_rows(embed(written.texts), written.truth.targets)
                found["semantic_cosine"] = float(np.mean(again))
            metrics |= {f"{k}{written.suffix}": v for k, v in found.items()}
    return metrics


def confused(
    codec: SentenceCodec, objectives: Iterable[Measured], held_out: HeldOut
) -> dict[str, Any]:
    """Sentences, else vectors, nearest to another's teacher's vector; worst first.

    Returns:
        Under ``retrieval`` how many are ``confused`` of how many ``sentences``, and the
        ``worst``; empty where no objective has vectors.
    """
    among = held_out.first(_MOST_QUERIES)
    texts = among.texts or codec.tokenizer.decode(among.ids)
    texts = [text or f"sentence {number}" for number, text in enumerate(texts)]
    targets = among.targets[:, : codec.dimension]
    for objective in sorted(objectives, key=lambda o: not o.reads_text):
        vectors = objective.vectors(codec, among, ReadbackEngine())
        if vectors is None:
            continue
        found = confusions(vectors, targets)
        shown = [
            {"sentence": texts[c.query], "nearest": texts[c.found]}
            | {"own_cosine": c.own_cosine, "nearest_cosine": c.found_cosine}
            for c in found[:_MOST_CONFUSED]
        ]
        counts = {"sentences": len(texts), "confused": len(found)}
        return {"retrieval": counts | {"worst": shown}}
    return {}


def reach_of(codec: SentenceCodec, texts: Sequence[str]) -> dict[str, float]:
    """What a decoder that never errs could write of the sentences; see ``reach``."""
    words, longest = codec.tokenizer, codec.config.data.max_length
    rows, back = words.encode(texts, LONGEST), words.encode(texts, longest)
    lengths = np.array([len(row) for row in rows])
    is_unknown = np.array([bool((r == words.special.unknown).any()) for r in rows])
    return reach(texts, words.decode(back), lengths, longest, is_unknown)


def written_after(
    codec: SentenceCodec,
    held_out: HeldOut,
    decoding: Decoding,
    rounds: Sequence[int],
    report: Callable[[int, int], None],
    batch_size: int = 0,
) -> dict[int, Written]:
    """Decode sentences once; what they were after each number of corrections.

    Args:
        codec: The model.
        held_out: Sentences with text, and the vectors they are decoded from.
        decoding: The settings; ``corrections`` is the most of ``rounds``.
        rounds: Numbers of corrections; 0 = as first decoded, with ``samples`` above 1
            the best of these.
        report: Is told how many sentences are done, of how many.
        batch_size: Vectors decoded together; 0 = as many as suit the device.
    """
    found = {number: Written([], np.zeros(0), 0.0) for number in rounds}
    report(0, len(held_out.targets))
    for batch in codec.corrected(held_out.targets, decoding, batch_size=batch_size):
        started = time.perf_counter()
        for number, best in enumerate(batch):
            if number in found:
                own = found[number]
                own.texts += codec.tokenizer.decode(best.ids)
                own.cosines = np.concatenate([own.cosines, best.cosine])
                own.seconds += time.perf_counter() - started
        report(len(found[rounds[-1]].texts), len(held_out.targets))
    return found


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


def shortened_metrics(
    vectors: np.ndarray, targets: np.ndarray, sizes: Iterable[int]
) -> dict[str, float]:
    """How well the first numbers of the vectors do alone, for each of some sizes d.

    ``similarity_d`` is Spearman x 100 of the cosines between sentences, by the first d
    numbers, against those of the teacher's whole vectors; ``p_at_1_d`` is P@1 among the
    teacher's vectors shortened likewise.

    Args:
        vectors: The student's, ``[N, E]``.
        targets: The teacher's, ``[N, E]``.
        sizes: Sizes d below E; with any, E itself is measured for comparison.
    """
    found: dict[str, float] = {}
    sizes = list(sizes)
    for size in [*sizes, vectors.shape[1]] if sizes else []:
        part = vectors[:, :size]
        found[f"similarity_{size}"] = similarity_score(part, targets)
        if size in sizes:
            found[f"p_at_1_{size}"] = precision_at(part, targets[:, :size], (1,))[1]
    return found


def mean_cross_entropy(
    codec: SentenceCodec,
    held_out: HeldOut,
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


def through_lattice(
    passes: Iterable[Pass], shape: tuple[int, ...], engine: ReadbackEngine
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors that come out of the lattice, and the flows' mean statistics.

    Args:
        passes: Rows of each batch and what sends them through.
        shape: ``[N, E]`` of the result.
        engine: Evaluates one batch at a time.

    Returns:
        Vectors by row, and statistics as means over the rows, named ``flow_...``.
    """
    vectors = np.zeros(shape, np.float32)
    sums: dict[str, float] = {}
    for rows, forward in passes:
        with engine.batch("lattice"):
            output = forward()
            read = engine.defer("lattice", (output.vector, output.statistics))
        vectors[rows], statistics = read.value()
        for name, value in statistics.items():
            sums[f"flow_{name}"] = sums.get(f"flow_{name}", 0.0) + value * len(rows)
    return vectors, {name: total / len(vectors) for name, total in sums.items()}

"""Guesses at training sentences: made between updates, embedded, kept, learnt from.

Every so many updates the decoder of that moment guesses at some training sentences from
their vectors. The texts are embedded, and the newest guesses are kept: an update of the
objective that reads guesses takes its sentences among them. What is guessed at, what is
drawn and what an update takes are pure functions of the seed and the update's number;
the guesses themselves are kept with every checkpoint.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config, CorrectionConfig
from energyflow_mlx.data.batching import Batch, bucket_of, pad_rows
from energyflow_mlx.data.chunks import Rows
from energyflow_mlx.data.dataset import permutation
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.text.generation import Decoding
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.feed import Feed, RunData, Update, on_device
from energyflow_mlx.training.objectives.base import Objective

logger = logging.getLogger(__name__)

GUESSES = "guesses"  # kind of arrays in a checkpoint
_SENTENCES, _NOISE, _TAKEN = 0, 1, 2  # what a random stream is for


@dataclass
class GuessRing:
    """The newest guesses, and the sentences that they are guesses at.

    Attributes:
        ids: Token ids of the sentences, padded, ``[R, L]`` int32.
        lengths: Their tokens, ``[R]`` int32.
        targets: Their vectors, ``[R, E]`` float32.
        guess_ids: Token ids of the guesses, padded, ``[R, L]`` int32.
        guess_lengths: Their tokens, ``[R]`` int32.
        vectors: Their vectors, each as long as its target, ``[R, E]`` float32.
    """

    ids: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    guess_ids: np.ndarray
    guess_lengths: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(
        cls,
        sentences: Rows,
        targets: np.ndarray,
        guesses: Rows,
        vectors: np.ndarray,
        longest: int,
    ) -> "GuessRing":
        """Guesses in the order given.

        Args:
            sentences: Token ids of each sentence.
            targets: Their vectors, ``[n, E]``.
            guesses: Token ids of a guess at each.
            vectors: Their vectors, ``[n, E]``.
            longest: L.
        """
        arrays = []
        for rows, own in ((sentences, targets), (guesses, vectors)):
            padded, mask = pad_rows(rows, longest)
            arrays += [padded, mask.sum(axis=1).astype(np.int32), own]
        return cls(*arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, new: "GuessRing", kept: int) -> "GuessRing":
        """Older and newer guesses, the newest ``kept`` of them."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return GuessRing(*(np.concatenate(pair)[-kept:] for pair in pairs))

    def take(self, chosen: np.ndarray, length: int) -> tuple[Batch, Guess]:
        """Some of them, cut or padded to one length, as NumPy arrays.

        Args:
            chosen: Which, ``[B]``.
            length: Tokens of each row, at most L.
        """
        column = np.arange(length)
        mask = (column < self.lengths[chosen, None]).astype(np.float32)
        guess_mask = (column < self.guess_lengths[chosen, None]).astype(np.float32)
        sentences = Batch(self.ids[chosen, :length], mask, self.targets[chosen])
        own = (self.guess_ids[chosen, :length], guess_mask, self.vectors[chosen])
        return sentences, Guess(*own)

    def arrays(self) -> dict[str, mx.array]:
        """Flat view for checkpoints."""
        return {f"{GUESSES}.{k}": mx.array(a) for k, a in vars(self).items()}


class PlainUpdates:
    """Updates of sentences, as a run has them whose objectives read no guesses."""

    def __init__(self, feed: Feed) -> None:
        """Take what makes them."""
        self._feed = feed

    def updates(self, start: int) -> Generator[Update]:
        """Endless updates from number ``start``, the same after a restart."""
        return self._feed.updates(start)

    def is_due(self, step: int) -> bool:
        """Whether the weights are read before update ``step``."""
        return False

    def arrays(self) -> dict[str, mx.array]:
        """What a checkpoint keeps."""
        return {}

    def restore(self, arrays: dict[str, mx.array]) -> None:
        """Go on with what a checkpoint kept.

        Args:
            arrays: Of kind ``GUESSES``, named without it.
        """

    def figures(self) -> dict[str, float]:
        """What a report says of the guesses."""
        return {}

    def timings(self) -> dict[str, float]:
        """What they took since asked last, in ms."""
        return {}


class Guesses(PlainUpdates):
    """Makes guesses; updates of the objective that reads them have some."""

    def __init__(
        self,
        feed: Feed,
        settings: CorrectionConfig,
        is_turn: Callable[[int], bool],
        codec: SentenceCodec,
        data: RunData,
    ) -> None:
        """Plan the guesses.

        Args:
            feed: Cuts updates into micro-batches.
            settings: How guesses are made.
            is_turn: Whether an update, by its number, is of the objective that reads
                them.
            codec: The model in training.
            data: Sentences, their vectors, and the teacher.
        """
        super().__init__(feed)
        self._settings, self._is_turn = settings, is_turn
        self._codec, self._data = codec, data
        self._config: Config = codec.config
        # Sentences are cut where a batch of the longest would be cut.
        self._longest = self._config.data.buckets[-1]
        nothing = np.zeros((0, data.dimension), np.float32)
        self._ring = GuessRing.of([], nothing, [], nothing, self._longest)
        self._seconds = 0.0
        codec.teach(data.embed)

    # -- what the loop asks ------------------------------------------------------------

    def updates(self, start: int) -> Generator[Update]:
        """Endless updates from number ``start``, the same after a restart.

        One of the objective that reads guesses passes over the sentences it would have
        had. Guesses are made when the update comes that they are due before.
        """
        with closing(self._feed.updates(start)) as updates:
            for step, update in enumerate(updates, start):
                if self.is_due(step):
                    self._make(step)
                yield self._update(step) if self._is_turn(step) else update

    def is_due(self, step: int) -> bool:
        """Whether the weights are read before update ``step``: guesses are made."""
        return step % self._settings.every == 0 or len(self._ring) == 0

    def arrays(self) -> dict[str, mx.array]:
        """The guesses, for a checkpoint."""
        return self._ring.arrays()

    def restore(self, arrays: dict[str, mx.array]) -> None:
        """Go on with the guesses of a checkpoint; with none, new ones are made.

        Args:
            arrays: Of kind ``GUESSES``, named without it.
        """
        if arrays:
            self._ring = GuessRing(**{k: np.array(a) for k, a in arrays.items()})

    def figures(self) -> dict[str, float]:
        """Mean cosine of the newest guesses with their targets."""
        newest = slice(-self._settings.count, None)
        found, wanted = self._ring.vectors[newest], self._ring.targets[newest]
        cosine = (unit_rows(found) * unit_rows(wanted)).sum(axis=-1).mean()
        return {"guess_cosine": float(cosine)}

    def timings(self) -> dict[str, float]:
        """Milliseconds spent on guesses since asked last."""
        spent, self._seconds = self._seconds, 0.0
        return {"guess_ms": spent * 1e3}

    # -- making them -------------------------------------------------------------------

    def _make(self, step: int) -> None:
        """Guess at some sentences with the present weights."""
        started, settings = time.perf_counter(), self._settings
        seed, targets = self._config.seed, self._data.train_targets
        order = permutation(len(targets), seed, step, _SENTENCES)
        rows = np.sort(order[: settings.count])
        target = np.asarray(targets[rows], np.float32)
        texts = self._guessed(target, step)
        vectors = unit_rows(self._embedded(texts))
        vectors *= np.linalg.norm(target, axis=-1, keepdims=True)
        sentences = [self._data.train_ids[row] for row in rows]
        guesses = self._codec.tokenizer.encode(texts, self._longest)
        new = GuessRing.of(sentences, target, guesses, vectors, self._longest)
        self._ring = self._ring.add(new, settings.kept)
        self._seconds += time.perf_counter() - started
        logger.debug("update %d: %d guesses", step, len(rows))

    def _guessed(self, target: np.ndarray, step: int) -> list[str]:
        """Texts that the decoder writes from vectors ``[n, E]``, moved by noise."""
        settings, seed = self._settings, self._config.seed
        random = np.random.Generator(np.random.PCG64([seed, step, _NOISE]))
        noise = random.standard_normal(target.shape, np.float32)
        asked = target + noise * (settings.noise / target.shape[-1] ** 0.5)
        decoding = Decoding(
            max_length=self._config.data.max_length,
            temperature=settings.temperature,
            seed=int(random.integers(2**63)),
        )
        return self._codec.decode_rows(asked, decoding)

    def _embedded(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts, ``[n, E]``; a student in training shows no dropout."""
        model = self._codec.model
        model.eval()
        vectors = self._codec.embedder(self._settings.embedder)(texts)
        model.train()
        return np.asarray(vectors, np.float32)

    # -- learning from them ------------------------------------------------------------

    def _update(self, step: int) -> Update:
        """Micro-batches of sentences with guesses at them, on the device."""
        feed = self._feed
        length, chosen = self._chosen(step)
        batch, guess = self._ring.take(chosen, length)
        # The rows of token tables are those of both: the decoder looks up both.
        ids = np.concatenate([batch.ids, guess.ids], axis=1)
        mask = np.concatenate([batch.mask, guess.mask], axis=1)
        rows = feed.rows_of(Batch(ids, mask, batch.target), step)
        parts = feed.micro_batches(batch, rows)
        cuts = zip(*(np.split(a, len(parts)) for a in guess), strict=True)
        return [
            part._replace(guess=Guess(*map(mx.array, cut)))
            for part, cut in zip(on_device(parts), cuts, strict=True)
        ]

    def _chosen(self, step: int) -> tuple[int, np.ndarray]:
        """Padded length of an update, and which guesses it learns from, ``[B]``.

        One guess is drawn, and others of its padded length with it.
        """
        ring, buckets = self._ring, self._config.data.buckets
        lengths = np.maximum(ring.lengths, ring.guess_lengths)
        numbers = bucket_of(lengths, buckets)
        order = permutation(len(numbers), self._config.seed, step, _TAKEN)
        number = numbers[order[0]]
        members = order[numbers[order] == number]
        return buckets[number], np.resize(members, self._feed.batch_size)


def updates_for(
    feed: Feed,
    objectives: Iterable[Objective],
    alternation: Alternation,
    codec: SentenceCodec,
    data: RunData,
) -> PlainUpdates:
    """The updates of a run, with guesses for the objective that reads some, if any.

    Args:
        feed: Makes updates of sentences.
        objectives: What the run trains.
        alternation: Their order.
        codec: The model in training.
        data: Sentences, their vectors, and the teacher.

    Raises:
        InputError: Several processes train together: each would guess for itself.
    """
    for objective in objectives:
        name, settings = objective.name, objective.guessing
        if settings is None:
            continue
        if feed.processes > 1:
            raise InputError(
                f"[distributed] {settings.key} must be trained by one process, got "
                f"{feed.processes}."
            )
        is_turn = partial(_is_turn, alternation, name)
        return Guesses(feed, settings, is_turn, codec, data)
    return PlainUpdates(feed)


def _is_turn(alternation: Alternation, name: str, step: int) -> bool:
    return alternation.objective_of(step) == name

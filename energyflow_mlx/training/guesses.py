"""Guesses at sentences: made between updates, embedded, kept, learnt from.

Every so many updates the decoder of that moment guesses at some sentences from their
vectors: at training sentences, and at pairs that the run made itself, see
``own_pairs``. The texts are embedded, and the newest guesses are kept: an update of the
objective that reads guesses takes its sentences among them. What is guessed at, what is
drawn and what an update takes are pure functions of the seed, the update's number and
the pairs; the guesses themselves are kept with every checkpoint.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch, bucket_of, pad_rows
from energyflow_mlx.data.chunks import Rows
from energyflow_mlx.data.dataset import drawn, permutation
from energyflow_mlx.data.ring import PairRing
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.checkpoint import Loaded
from energyflow_mlx.runs.folder import GUESSES
from energyflow_mlx.runtime.received import require_type
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.text.generation import Decoding
from energyflow_mlx.text.generation.decoding import LONGEST
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.feed import Feed, RunData, Update, on_device
from energyflow_mlx.training.held_rows import held_rows
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.submitted import Contents
from energyflow_mlx.training.updates import Maker

logger = logging.getLogger(__name__)

_MADE = "made"
_SENTENCES, _NOISE, _TAKEN, _OWN = 0, 1, 2, 3  # what a random stream is for


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

    def rows(self, chosen: np.ndarray) -> "GuessRing":
        """Those that are chosen, ``[R]`` bool."""
        return GuessRing(*(array[chosen] for array in vars(self).values()))

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


class Guesses(Maker):
    """Makes guesses; updates of the objective that reads them have some.

    Such an update passes over the sentences that it would have had.
    """

    doing = "guessing at sentences"

    def __init__(
        self,
        objective: Objective,
        codec: SentenceCodec,
        data: RunData,
        feed: Feed,
        alternation: Alternation,
        own_pairs: PairRing | None,
    ) -> None:
        """Plan the guesses.

        Args:
            objective: The one that reads them, and says how they are made.
            codec: The model in training.
            data: Sentences, their vectors, and the teacher.
            feed: Cuts updates into micro-batches.
            alternation: Says which updates are of the objective.
            own_pairs: The pairs that the run makes itself; none = it makes none.
        """
        assert objective.guessing is not None, "who reads guesses says how"
        self._objective, self._settings = objective.name, objective.guessing
        self._feed, self._alternation = feed, alternation
        self._codec, self._data, self._own_pairs = codec, data, own_pairs
        self._config: Config = codec.config
        # Sentences are cut where a batch of the longest would be cut.
        self._longest = self._config.data.buckets[-1]
        self._ring = self._empty()
        self._made, self._seconds = 0, 0.0
        codec.teach(data.embed)

    def _empty(self) -> GuessRing:
        nothing = np.zeros((0, self._data.dimension), np.float32)
        return GuessRing.of([], nothing, [], nothing, self._longest)

    def is_due(self, step: int) -> bool:
        """Whether guesses are made right before update ``step``; first of all, too."""
        return step % self._settings.every == 0 or len(self._ring) == 0

    # -- saving and reporting ----------------------------------------------------------

    def arrays(self) -> dict[str, mx.array]:
        """The guesses, for a checkpoint; nothing while there are none."""
        held = vars(self._ring) if len(self._ring) else {}
        return {f"{GUESSES}.{k}": mx.array(a) for k, a in held.items()}

    @property
    def most_bytes(self) -> int:
        """Bytes of as many guesses as are kept."""
        held = vars(self._ring).values()
        sizes = [a.itemsize * math.prod(a.shape[1:]) for a in held]
        return sum(sizes) * self._settings.kept

    def restore(self, found: Loaded) -> None:
        """Go on with the guesses of a checkpoint; with none, new ones are made.

        Raises:
            InputError: They are not those of a run like this one.
        """
        where, meta = str(found.path), found.meta.get(GUESSES, {})
        made = meta.get(_MADE, 0)
        require_type(made, int, f"[checkpoint] {where}: {GUESSES}.{_MADE}")
        self._made, self._ring = made, self._empty()
        if made:
            arrays = held_rows(
                found.arrays_of(GUESSES),
                vars(self._ring),
                count=min(made, self._settings.kept),
                vocab_size=self._codec.tokenizer.vocab_size,
                where=where,
            )
            self._ring = GuessRing(**arrays)

    def to_json(self) -> dict[str, Any]:
        """How many guesses were made, for checkpoint and summary."""
        return {GUESSES: {_MADE: self._made}}

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

    def make(self, step: int) -> None:
        """Guess at some sentences with the present weights."""
        started, settings = time.perf_counter(), self._settings
        own, own_target = self._own(step)
        known, known_target = self._known(step, settings.count - len(own))
        sentences = [*known, *own]
        target = np.concatenate([known_target, own_target])
        texts = self._guessed(target, len(known), step)
        vectors = unit_rows(self._codec.embedder(settings.embedder)(texts))
        vectors *= np.linalg.norm(target, axis=-1, keepdims=True)
        guesses = self._codec.tokenizer.encode(texts, self._longest)
        new = GuessRing.of(sentences, target, guesses, vectors, self._longest)
        new = new.rows(np.isfinite(vectors).all(axis=1))
        self._ring = self._ring.add(new, settings.kept)
        self._made += len(new)
        self._seconds += time.perf_counter() - started
        logger.debug("update %d: %d guesses, %d own", step, len(sentences), len(own))

    def _known(self, step: int, count: int) -> tuple[Rows, np.ndarray]:
        """So many training sentences, and their vectors, ``[n, E]``.

        They are the student's where the guesses' are, so that what tells the two apart
        is the guess, and not who embeds it.
        """
        targets = self._data.train_targets
        order = permutation(len(targets), self._config.seed, step, _SENTENCES)
        rows = np.sort(order[:count])
        ids = [self._data.train_ids[row] for row in rows]
        if self._settings.embedder == "student":
            is_unit = self._config.teacher.normalize
            return ids, self._codec.encode_ids(ids, normalize=is_unit)
        return ids, np.asarray(targets[rows], np.float32)

    def _own(self, step: int) -> tuple[Rows, np.ndarray]:
        """Own pairs to guess at, as many as wanted or there are, and their vectors."""
        settings, ring = self._settings, self._own_pairs
        if ring is None or not settings.own:
            return [], np.zeros((0, self._data.dimension), np.float32)
        wanted = round(settings.own * settings.count)
        order = permutation(len(ring), self._config.seed, step, _OWN)
        return ring.pairs(np.sort(order[:wanted]))

    def _guessed(self, target: np.ndarray, known: int, step: int) -> list[str]:
        """Texts that the decoder writes from vectors.

        Args:
            target: ``[n, E]``.
            known: How many, the first ones, are those of sentences that it is trained
                on as they are; these are moved by noise.
            step: Number of the update that follows.
        """
        settings, seed = self._settings, self._config.seed
        random = np.random.Generator(np.random.PCG64([seed, step, _NOISE]))
        noise = random.standard_normal(target.shape, np.float32)
        noise[known:] = 0.0
        asked = target + noise * (settings.noise / target.shape[-1] ** 0.5)
        decoding = Decoding(
            max_length=min(self._config.data.max_length, LONGEST),
            temperature=settings.temperature,
            seed=int(random.integers(2**63)),
        )
        return self._codec.decode_rows(asked, decoding)

    # -- learning from them ------------------------------------------------------------

    def contents_of(self, step: int, length: int) -> Contents | None:
        """Sentences with guesses at them, where update ``step`` is to read guesses.

        They are padded to a length of their own.
        """
        if self._alternation.objective_of(step) != self._objective:
            return None
        own_length, chosen = self._chosen(step)
        batch, guess = self._ring.take(chosen, own_length)
        return Contents("sentences and guesses", batch, guess)

    def prepared(self, contents: Contents, step: int) -> Update:
        """Micro-batches of sentences with guesses at them, on the device."""
        feed, batch, guess = self._feed, contents.batch, contents.guess
        assert guess is not None
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
        places = drawn(len(numbers), self._config.seed, step, _TAKEN)
        number = numbers[places.argmin()]
        members = np.flatnonzero(numbers == number)
        # Sorting these alone: all of 50,000 took 10 ms of every such update.
        members = members[np.argsort(places[members], kind="stable")]
        return buckets[number], np.resize(members, self._feed.batch_size)

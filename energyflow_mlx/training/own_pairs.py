"""Pairs that a run makes itself: the decoder samples, the embedder says what it wrote.

Between updates vectors near those of the training sentences are decoded with the
weights of that moment. Whatever sentence comes out, the embedder gives *its* vector, so
each pair is exact however poor the sentence: the decoder learns what its own guesses
mean, from more vectors than there are training sentences. The pairs lie in a ring on
the host, and some of the reconstruction updates are made of them.

A sampling and a draw are pure functions of the seed, the update's number, the weights
and the ring; a checkpoint holds the latter two, so a resumed run makes the same pairs.
"""

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import Batch, bucket_of
from energyflow_mlx.data.ring import HELD_VECTOR, PairRing
from energyflow_mlx.evaluation.held_out import Embed
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.checkpoint import Loaded
from energyflow_mlx.runs.folder import OWN_PAIRS
from energyflow_mlx.runtime.received import built
from energyflow_mlx.text.generation.decoding import LONGEST
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.feed import Feed, RunData, Update
from energyflow_mlx.training.held_rows import held_rows
from energyflow_mlx.training.random_keys import host_seed
from energyflow_mlx.training.submitted import Contents
from energyflow_mlx.training.updates import Maker

_SHORTEST = 4  # start, two tokens, end
_SAMPLING, _DRAWING = 0, 1  # uses of random numbers


@dataclass
class Tally:
    """What was made since the run began.

    Attributes:
        sampled: Sentences that the decoder wrote.
        kept: Those of them that became pairs.
        updates: Updates made of pairs.
        seconds: Time of decoding and embedding them.
    """

    sampled: int = 0
    kept: int = 0
    updates: int = 0
    seconds: float = 0.0

    def since(self, before: "Tally") -> dict[str, float]:
        """What has been added to an earlier tally, by name."""
        now, then = dataclasses.asdict(self), dataclasses.asdict(before)
        return {name: now[name] - then[name] for name in now}


class OwnPairs(Maker):
    """Makes the pairs of a run, holds them, and puts them in the sentences' place.

    An update of own pairs passes over the batch of sentences that it would have had:
    the other updates stay as they are. Its rows are padded to the length of that batch,
    so nothing is traced for another shape.

    Attributes:
        ring: The pairs.
        tally: What was made.
    """

    doing = "making own pairs"

    def __init__(
        self,
        config: Config,
        codec: SentenceCodec,
        data: RunData,
        feed: Feed,
        alternation: Alternation,
        takers: Collection[str],
    ) -> None:
        """Plan the pairs.

        Args:
            config: The run's configuration.
            codec: Model and tokenizer that it trains.
            data: Sentences and vectors.
            feed: Makes updates of batches.
            alternation: Says what each update trains.
            takers: Objectives some of whose updates are to be made of own pairs.
        """
        self._settings, self._seed = config.data.own_pairs, config.seed
        self._buckets, self._parts = config.data.buckets, config.trainer.accumulate
        self._normalize = config.teacher.normalize
        self._codec, self._data, self._feed = codec, data, feed
        self._alternation = alternation
        self._takers = takers
        self._longest = max(map(len, data.train_ids))
        near = data.sampled_near
        self._near = np.arange(len(data.train_ids)) if near is None else near
        self._held_out = {row.tobytes() for row in data.held_out.ids}
        self.ring = PairRing(
            self._settings.ring,
            self._longest,
            data.train_targets.shape[1],
            data.tokenizer.vocab_size,
        )
        self.tally = Tally()
        self._reported = Tally()

    # -- making pairs --------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether pairs are made right before update ``step``."""
        settings = self._settings
        return step % settings.every == 0 and step >= max(settings.start, 1)

    def make(self, step: int) -> None:
        """Sample sentences, embed those worth it, and put the pairs into the ring."""
        started = time.perf_counter()
        seed = host_seed(self._seed, step, _SAMPLING)
        random = np.random.Generator(np.random.PCG64(seed))
        settings = self._settings
        texts = self._codec.decode(
            self._vectors(random),
            max_length=min(self._longest, LONGEST),
            temperature=settings.temperature,
            seed=seed,
        )
        ids = self._codec.tokenizer.encode(texts, self._longest + 1)
        chosen = self._worth_keeping(ids)
        ids, texts = [ids[i] for i in chosen], [texts[i] for i in chosen]
        vectors = self._embedded(texts, ids)
        with np.errstate(over="ignore"):  # an infinity makes no pair
            vectors = vectors.astype(HELD_VECTOR)
        has_vector = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        kept = np.flatnonzero(has_vector)
        self.ring.add([ids[i] for i in kept], vectors[kept])
        self.tally.sampled += settings.count
        self.tally.kept += len(kept)
        self.tally.seconds += time.perf_counter() - started

    def _vectors(self, random: np.random.Generator) -> np.ndarray:
        """Vectors to decode, ``[count, E]`` float32.

        z = (1 - w) a + w b + e,  |e| ~ noise * |a|,  scaled to (1 - w) |a| + w |b|

        with a and b the vectors of random training sentences, of those meant for it,
        and w uniform for the share ``interpolate`` of them and 0 for the others.
        """
        settings, targets = self._settings, self._data.train_targets
        count = settings.count
        near = self._near
        numbers = near[(random.random((2, count)) * len(near)).astype(np.int64)]
        first, second = (np.asarray(targets[n], np.float32) for n in numbers)
        is_between = random.random(count) < settings.interpolate
        w = (random.random(count) * is_between).astype(np.float32)[:, None]
        sizes = [np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second)]
        noise = random.standard_normal(first.shape, np.float32)
        step = settings.noise * sizes[0] / math.sqrt(first.shape[1])
        z = (1 - w) * first + w * second + noise * step
        wanted = (1 - w) * sizes[0] + w * sizes[1]
        return z * (wanted / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9))

    def _worth_keeping(self, ids: Sequence[np.ndarray]) -> list[int]:
        """Numbers of the sentences to learn from.

        Left out are those of fewer than two tokens, those longer than any training
        sentence (they had not ended), repetitions, and held-out sentences, so that
        these are never trained on.
        """
        seen, chosen = set(self._held_out), []
        for number, row in enumerate(ids):
            key = row.tobytes()
            if _SHORTEST <= len(row) <= self._longest and key not in seen:
                seen.add(key)
                chosen.append(number)
        return chosen

    def _embedded(self, texts: list[str], ids: list[np.ndarray]) -> np.ndarray:
        """Vectors of sampled sentences, ``[N, E]`` float32."""
        if not texts:
            return np.zeros((0, self._codec.dimension), np.float32)
        if self._settings.embedder == "student":
            return self._codec.encode_ids(ids, normalize=self._normalize)
        embed: Embed | None = self._data.embed
        assert embed is not None, "build.objectives asks for a teacher that reads text"
        return embed(texts)

    # -- using them ----------------------------------------------------------

    def contents_of(self, step: int, length: int) -> Contents | None:
        """Pairs for update ``step``, where it is their turn and there are enough."""
        if not self._is_turn(step):
            return None
        number = int(bucket_of(np.array([length]), self._buckets)[0])
        above = self._buckets[number - 1] if number else 0
        seed = host_seed(self._seed, step, _DRAWING)
        random = np.random.Generator(np.random.PCG64(seed))
        size = self._feed.micro_batch
        most = self._feed.room_for_targets(size, length)
        parts = range(self._parts)
        batches = [self.ring.draw(above, length, size, most, random) for _ in parts]
        drawn = [batch for batch in batches if batch is not None]
        if len(drawn) < len(batches):
            return None
        batch = Batch(*map(np.concatenate, zip(*drawn, strict=True)))
        return Contents("own pairs", batch)

    def prepared(self, contents: Contents, step: int) -> Update:
        """Update ``step`` of such pairs, on the device."""
        self.tally.updates += 1
        return self._feed.prepared(contents.batch, step)

    def _is_turn(self, step: int) -> bool:
        """Whether update ``step`` is the pairs' turn: evenly spread over their own."""
        name, share = self._alternation.objective_of(step), self._settings.share
        if name not in self._takers:
            return False
        before = self._alternation.counts(step)[name]
        return math.floor((before + 1) * share) > math.floor(before * share)

    # -- saving and reporting ------------------------------------------------

    def arrays(self) -> dict[str, mx.array]:
        """The ring, for a checkpoint; nothing while it is empty."""
        held = self.ring.arrays() if len(self.ring) else {}
        return {f"{OWN_PAIRS}.{name}": mx.array(array) for name, array in held.items()}

    @property
    def most_bytes(self) -> int:
        """Bytes of a full ring."""
        return self.ring.nbytes

    def restore(self, found: Loaded) -> None:
        """Go on from a checkpoint's ring and tally.

        Raises:
            InputError: They are not those of a run like this one.
        """
        where, meta = str(found.path), found.meta.get(OWN_PAIRS, {})
        tally = built(Tally, meta, f"[checkpoint] {where}: {OWN_PAIRS}")
        size, like = self._settings.ring, self.ring.arrays()
        arrays = {name: rows[:0] for name, rows in like.items()}
        if tally.kept:
            arrays = held_rows(
                found.arrays_of(OWN_PAIRS),
                like,
                count=min(tally.kept, size),
                vocab_size=self._codec.tokenizer.vocab_size,
                where=where,
            )
        self.ring.restore(arrays, tally.kept)
        self.tally, self._reported = tally, dataclasses.replace(tally)

    def to_json(self) -> dict[str, Any]:
        """The tally, for checkpoint and summary."""
        return {OWN_PAIRS: dataclasses.asdict(self.tally)}

    def timings(self) -> dict[str, float]:
        """What was made since the last call, for the log."""
        found = self.tally.since(self._reported)
        self._reported = dataclasses.replace(self.tally)
        made = {f"own_pairs_{name}": value for name, value in found.items()}
        return made | {"own_pairs_held": len(self.ring)}

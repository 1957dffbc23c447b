"""The newest pairs of a sentence and its vector, within a bound in memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from energyflow_mlx.data.batching import Batch, pad_rows

# Ids of most vocabularies fit into two bytes.
_SMALL_VOCABULARY = 2**16
HELD_VECTOR = np.float16


class PairRing:
    """Holds the newest pairs; a new one takes the place of the oldest.

    A pair takes ``2 * E`` bytes for the vector (float16: the error of a unit vector's
    cosine is below 1e-6) and 2 for each of the longest sentence's tokens, 4 where the
    vocabulary has more than 65,536. Memory is taken as pairs come.

    Args:
        size: Pairs held at most, R.
        longest: Most tokens of a sentence, start and end included.
        dimension: Size E of the vectors.
        vocab_size: V; every id is below it.
    """

    def __init__(
        self, size: int, longest: int, dimension: int, vocab_size: int
    ) -> None:
        kind = np.uint16 if vocab_size <= _SMALL_VOCABULARY else np.int32
        self._ids = np.zeros((size, longest), kind)
        self._lengths = np.zeros(size, np.int32)
        self._vectors = np.zeros((size, dimension), HELD_VECTOR)
        self._count, self._next = 0, 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of R pairs."""
        return sum(a.nbytes for a in (self._ids, self._lengths, self._vectors))

    def add(self, ids: Sequence[np.ndarray], vectors: np.ndarray) -> None:
        """Take pairs in; of more than R the last R stay.

        Args:
            ids: Token ids of each sentence, start and end included.
            vectors: Their vectors, ``[N, E]``.
        """
        size, given = len(self._ids), len(ids)
        if not given:
            return
        ids, vectors = ids[-size:], vectors[-size:]
        places = (self._next + np.arange(given)[-size:]) % size
        padded, _ = pad_rows(ids, self._ids.shape[1])
        self._ids[places], self._vectors[places] = padded, vectors
        self._lengths[places] = [len(row) for row in ids]
        self._next = (self._next + given) % size
        self._count = min(size, self._count + len(ids))

    def draw(
        self,
        above: int,
        length: int,
        size: int,
        most: int,
        random: np.random.Generator,
    ) -> Batch | None:
        """Pairs of about one length, drawn with replacement and padded to it.

        Where too few sentences are longer than ``above``, shorter ones are drawn too.

        Args:
            above: Length of the next shorter bucket; 0 = there is none.
            length: L, tokens of a padded row.
            size: B, pairs drawn.
            most: Targets that there is room for; the longest sentences give way to
                shorter ones where there would be more, as far as that helps.
            random: What they are drawn with.

        Returns:
            A batch of B pairs; none where fewer than B are short enough.
        """
        lengths = self._lengths[: self._count]
        short = lengths <= length
        fits = np.flatnonzero(short & (lengths > above))
        if len(fits) < size:
            fits = np.flatnonzero(short)
        if len(fits) < size:
            return None
        drawn = fits[(random.random((2, size)) * len(fits)).astype(np.int64)]
        chosen = _fitting(drawn[0], drawn[1], lengths, most + size)
        ids = np.zeros((size, length), np.int32)
        width = min(length, self._ids.shape[1])
        ids[:, :width] = self._ids[chosen, :width]
        mask = (np.arange(length) < lengths[chosen, None]).astype(np.float32)
        return Batch(ids, mask, self._vectors[chosen].astype(np.float32))

    def pairs(self, places: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Some of the pairs.

        Args:
            places: Which, ``[n]``, each below ``len``.

        Returns:
            Token ids of each sentence, int32, and their vectors, ``[n, E]`` float32.
        """
        rows = zip(self._ids[places], self._lengths[places], strict=True)
        ids = [row[:length].astype(np.int32) for row, length in rows]
        return ids, self._vectors[places].astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every pair in its place, for a checkpoint."""
        return {
            "ids": self._ids[: self._count],
            "lengths": self._lengths[: self._count],
            "vectors": self._vectors[: self._count],
        }

    def restore(self, arrays: Mapping[str, np.ndarray], given: int) -> None:
        """Inverse of ``arrays``: every pair in its place again.

        Args:
            arrays: Of the R newest pairs, or all where there are fewer; trusted.
            given: Pairs taken in so far, those included that are gone.
        """
        self._count, self._next = len(arrays["lengths"]), given % len(self._ids)
        self._ids[: self._count] = arrays["ids"]
        self._lengths[: self._count] = arrays["lengths"]
        self._vectors[: self._count] = arrays["vectors"]


def _fitting(
    rows: np.ndarray, others: np.ndarray, lengths: np.ndarray, most: int
) -> np.ndarray:
    """Rows of at most so many tokens in all, ``[B]``.

    Args:
        rows: Those to be taken, ``[B]``.
        others: Those that the longest may be changed for, ``[B]``.
        lengths: Tokens of every row of the ring.
        most: Tokens in all.
    """
    over = lengths[rows].sum() - most
    if over <= 0:
        return rows
    falling = rows[np.argsort(-lengths[rows], kind="stable")]
    rising = others[np.argsort(lengths[others], kind="stable")]
    saved = np.cumsum(lengths[falling] - lengths[rising])
    enough = saved >= over
    changed = int((enough if enough.any() else saved).argmax()) + 1
    return np.concatenate([rising[:changed], falling[changed:]])

"""Rounds of correction by a trained model: tries, guesses, embedded texts."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.text.generation import Decoding, Generator, correct
from energyflow_mlx.text.generation.correction import Attempt, Correction
from energyflow_mlx.text.generation.edits import TRIED, Likely, edits_of
from energyflow_mlx.text.tokenizer import Tokenizer

Embed = Callable[[Sequence[str]], np.ndarray]

# A sampled sentence's number holds the row's, its try's and its round's.
_TRY, _ROUND = 40, 50
_LEAST_ROWS = 8
_READ_TOGETHER = 256  # guesses whose edits are looked for: their logits lie in memory
_GUESS_STEP = 16  # guesses are padded to multiples of this: few shapes are compiled


@dataclass(frozen=True)
class Rounds:
    """Corrects the sentences of vectors.

    Attributes:
        generator: Generates sentences.
        tokenizer: Text to ids and back.
        embed: Vectors of texts, ``[N, E]``.
        longest: Most tokens of a guess.
        reads_guesses: Whether the generator has a corrector.
    """

    generator: Generator
    tokenizer: Tokenizer
    embed: Embed
    longest: int
    reads_guesses: bool

    def __call__(
        self, z: np.ndarray, decoding: Decoding, first_row: int
    ) -> Iterator[Correction]:
        """Sentences of vectors after 0, 1, ... corrections; see ``correct``.

        Args:
            z: Vectors, ``[B, E]``.
            decoding: The settings.
            first_row: Number of the first sentence in its list.
        """

        def tell(attempt: Attempt) -> np.ndarray:
            return self._tries(attempt, decoding, first_row, len(z) * decoding.kept)

        def embed(ids: np.ndarray) -> np.ndarray:
            # Through the text: its tokens may differ from those the decoder chose.
            return self.embed(self.tokenizer.decode(ids))

        tried: dict[int, set[bytes]] = defaultdict(set)

        def edit(attempt: Attempt) -> tuple[np.ndarray, np.ndarray]:
            return self._edits(attempt, decoding, first_row, tried)

        return correct(
            tell,
            embed,
            z,
            rounds=decoding.corrections,
            reads_guesses=self.reads_guesses,
            kept=decoding.kept,
            edits=[edit] * decoding.edits,
        )

    def _edits(
        self,
        attempt: Attempt,
        decoding: Decoding,
        first_row: int,
        tried: dict[int, set[bytes]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Edits of an attempt's guesses: which each is of, and the edits, ``[m, T]``.

        Args:
            attempt: The guesses, and the vectors for which edits are to be likely.
            decoding: The settings.
            first_row: Number of the first sentence in its list.
            tried: Edits of each row that were tried; those returned are added.
        """
        assert attempt.ids is not None
        longest = min(self.longest, decoding.max_length + 1)  # with the start
        rows = self.tokenizer.encode(self.tokenizer.decode(attempt.ids), longest)
        of: list[int] = []
        found: list[np.ndarray] = []
        said = self._likely(rows, attempt.condition)
        for place, (row, likely) in enumerate(zip(rows, said, strict=True)):
            number = int(attempt.rows[place])
            random = np.random.default_rng(
                [decoding.seed, first_row + number, attempt.round]
            )
            for edit in edits_of(row, likely, TRIED, random, tried[number]):
                if len(edit) <= longest:
                    of.append(place)
                    found.append(edit[1:])
        width = attempt.ids.shape[1]
        padded = np.full((len(found), width), self.tokenizer.special.pad, np.int32)
        for row, edit in zip(padded, found, strict=True):
            row[: len(edit)] = edit
        return np.array(of, np.int64), padded

    def _likely(self, rows: Sequence[np.ndarray], z: np.ndarray) -> Iterator[Likely]:
        """What is likely in each of some sentences, for vectors ``[n, E]``."""
        for start in range(0, len(rows), _READ_TOGETHER):
            here = rows[start : start + _READ_TOGETHER]
            ids, mask = _padded(here)
            filled = np.arange(_rows_for(len(here), _READ_TOGETHER)) % len(here)
            found = self.generator.likely(ids[filled], mask[filled], z[start + filled])
            for place in range(len(here)):
                yield Likely(*(array[place] for array in found))

    def _tries(
        self, attempt: Attempt, decoding: Decoding, first_row: int, most: int
    ) -> np.ndarray:
        """Tries of every row of an attempt, ``[n, K, T]``."""
        asked = len(attempt.rows)
        filled = np.arange(_rows_for(asked, most)) % asked
        z, told = attempt.condition[filled], attempt.target[filled]
        guess = self._guess(attempt)
        # A moved condition is another question: it needs no other numbers.
        turn = 0 if attempt.ids is None else attempt.round
        numbers = (first_row + attempt.rows[filled]) + (turn << _ROUND)

        def generate(settings: Decoding, tries: np.ndarray) -> np.ndarray:
            each = np.repeat(np.arange(len(filled)), len(tries))
            own = None if guess is None else Guess(*(a[filled][each] for a in guess))
            streams = numbers[each] + np.tile(tries << _TRY, len(filled))
            ids = self.generator(
                z[each], settings, numbers=streams, guess=own, told=told[each]
            )
            return ids.reshape(len(filled), len(tries), -1)[:asked]

        # First guesses have no other ones beside them: as many tries a row are made.
        tries = decoding.samples // (decoding.kept if attempt.round else 1)
        found = [generate(decoding, np.zeros(1, np.int64))]
        if tries > 1:
            found.append(generate(decoding.drawn, np.arange(1, tries)))
        return np.concatenate(found, axis=1)

    def _guess(self, attempt: Attempt) -> Guess | None:
        """What the corrector reads, if anything."""
        if attempt.ids is None or attempt.vectors is None:
            return None
        return guess_of(
            self.tokenizer.encode(self.tokenizer.decode(attempt.ids), self.longest),
            attempt.vectors,
        )


def guess_of(rows: Sequence[np.ndarray], vectors: np.ndarray) -> Guess:
    """Guesses padded to few lengths, as NumPy arrays.

    Args:
        rows: Token ids of each, start and end included.
        vectors: Their vectors, ``[n, E]``.
    """
    return Guess(*_padded(rows), vectors)


def _padded(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, ``[n, L]``, of one of few lengths."""
    longest = max(len(row) for row in rows)
    return pad_rows(rows, -(-longest // _GUESS_STEP) * _GUESS_STEP)


def _rows_for(asked: int, most: int) -> int:
    """Rows to decode together for ``asked`` of them: few sizes, so few compilations."""
    return min(most, max(_LEAST_ROWS, 1 << (asked - 1).bit_length()))

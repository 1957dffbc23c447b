"""Sentence vectors from a teacher: computed, or read from a file.

``Teacher`` runs a model, ``FunctionTeacher`` (in ``function.py``) a function of the
user's. ``PrecomputedTeacher`` holds vectors that somebody computed
before, one row per sentence. ``cached_vectors`` (in ``cache.py``) keeps what was
computed. A teacher that fails raises; it never returns a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import tokenizers

from energyflow_mlx.data.chunks import run_chunks, windows_of
from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.vectors import require_taught, targets_of, unit_rows
from energyflow_mlx.errors import InputError, TokenizerErrors
from energyflow_mlx.runtime.received import MOST_TOKENIZER, read_text
from energyflow_mlx.teacher.cache import cached_vectors
from energyflow_mlx.teacher.folder import TeacherFolder
from energyflow_mlx.teacher.stages import Head, unit
from energyflow_mlx.teacher.weights import StoredNames

__all__ = [
    "PrecomputedTeacher",
    "Teacher",
    "TokenEncoder",
    "cached_vectors",
]

Progress = Callable[[int, int], None]


class TokenEncoder(Protocol):
    """What the families of models have in common; see ``bert`` and ``modernbert``."""

    word_embeddings: nn.Embedding

    @property
    def longest(self) -> int:
        """The longest input in tokens."""

    @property
    def stored_names(self) -> StoredNames:
        """Where the parameters are in a checkpoint."""

    def __call__(self, ids: mx.array, mask: mx.array | None) -> mx.array:
        """Token features, ``[B, L, D]``, of ids ``[B, L]`` and their mask."""


class Teacher:
    """A sentence encoder with its tokenizer: texts in, vectors out.

    Args:
        encoder: The model, weights in memory.
        head: What makes one vector of its token features.
        folder: Where it came from.
        prompt: Text put before every sentence that is encoded.
        max_length: Truncation length in tokens; truncation keeps the end token.
        normalized: Whether vectors are scaled to unit length.

    Attributes:
        name: What the user called it.
        dimension: Width E of a vector.
        normalized: Whether rows have unit length.
        max_length: Truncation length in tokens.
        fingerprint: sha256 of everything but the texts that decides the vectors.
        tokenizer_path: Its ``tokenizer.json``.
        pooling: How token features become one vector.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        head: Head,
        folder: TeacherFolder,
        *,
        prompt: str,
        max_length: int,
        normalized: bool,
    ) -> None:
        self._encoder = encoder
        self._forward = partial(_forward, encoder, head, normalized)
        self._tokenizer = _load_tokenizer(folder.tokenizer, max_length)
        self._lower_case = folder.stages.lower_case
        self._prompt = prompt
        self._digest = folder.digest
        self.name = folder.name
        self.tokenizer_path = folder.tokenizer
        self.max_length = max_length
        self.normalized = normalized
        self.dimension = head.dimension
        self.pooling = folder.stages.pooling

    @property
    def fingerprint(self) -> str:
        """Names the model, the truncation length, the scaling and the prompt."""
        scaling = "unit" if self.normalized else "raw"
        prompt = f"-{self._prompt}" if self._prompt else ""
        return f"{self._digest}-{self.max_length}-{scaling}{prompt}"

    @property
    def word_embeddings(self) -> np.ndarray:
        """The model's token table, ``[V, D]`` float32."""
        return np.array(self._encoder.word_embeddings.weight)

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Encode sentences; equal ones are computed once.

        Args:
            texts: Sentences.
            batch_size: Most sentences in one forward pass; 0 = as many as suit the
                device.
            progress: Called with (sentences done, sentences to do), counting each
                distinct sentence once.

        Returns:
            ``[N, E]`` float32, in the order of ``texts``.

        Raises:
            TypeError: ``texts`` is a single string.
            InputError: A vector is not finite or has an impossible length.
        """
        if isinstance(texts, str):
            raise TypeError("[teacher] texts must be a list of strings, got a string.")
        distinct, position = deduplicate(texts)
        windows = map(self._prompted_rows, windows_of(distinct))
        vectors = np.empty((len(distinct), self.dimension), np.float32)
        done = 0
        for members, y in run_chunks(
            self._forward, windows, batch_size, self.max_length
        ):
            vectors[members] = y
            done += len(members)
            if progress is not None:
                progress(done, len(distinct))
        require_taught(vectors, self.name, distinct)
        return vectors[position]

    def _prompted_rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        return self.tokenize(texts)

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text without a prompt, cut to ``max_length``.

        Start and end tokens are included.

        Returns:
            Rows of int32; a row that was cut still ends with the end token.

        Raises:
            InputError: The tokenizer gives an id that the model does not have.
        """
        rows: list[np.ndarray] = []
        vocab_size = self._encoder.word_embeddings.weight.shape[0]
        for block in windows_of(texts):
            if self._lower_case:
                block = [text.lower() for text in block]
            # The fast form leaves out the places in the text, which nobody reads.
            encodings = self._tokenizer.encode_batch_fast(list(block))
            rows += [np.array(encoding.ids, np.int32) for encoding in encodings]
        highest = max((int(row.max()) for row in rows), default=0)
        if highest >= vocab_size:
            raise InputError(
                f"[teacher] {self.tokenizer_path}: token id {highest} is outside the "
                f"model's vocabulary of {vocab_size}."
            )
        return rows


def _forward(
    encoder: TokenEncoder,
    head: Head,
    normalized: bool,
    ids: mx.array,
    mask: mx.array | None,
) -> mx.array:
    y = head(encoder(ids, mask), mask)
    return unit(y) if normalized else y


def _load_tokenizer(path: Path, max_length: int) -> tokenizers.Tokenizer:
    text = read_text(path, "teacher", MOST_TOKENIZER)
    with TokenizerErrors(path):
        tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


class PrecomputedTeacher:
    """Vectors of one set of sentences, read from a ``.npy`` file by position.

    Args:
        path: A float array ``[N, E]``; row i belongs to sentence i.
        normalize: Scale every row to unit length.

    Attributes:
        name: The file's name.
        dimension: Width E of a vector.
        normalized: Whether rows were scaled to unit length.

    Raises:
        InputError: The file is missing, damaged or not a matrix of finite floats.
    """

    def __init__(self, path: Path, *, normalize: bool) -> None:
        self._path = Path(path)
        self._rows = targets_of(self._path)
        self.name = self._path.name
        self.normalized = normalize
        self.dimension = int(self._rows.shape[1])

    def vectors(self, count: int) -> np.ndarray:
        """Vectors of a set of ``count`` sentences.

        Returns:
            ``[count, E]`` float32; the memory-mapped file itself when nothing has to
            be converted.

        Raises:
            InputError: The file has another number of rows.
        """
        if len(self._rows) != count:
            raise InputError(
                f"[teacher] {self._path}: needs one row per sentence, {count}, "
                f"got {len(self._rows)}."
            )
        if not self.normalized:
            return self._rows.astype(np.float32, copy=False)
        return unit_rows(self._rows)

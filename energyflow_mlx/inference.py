"""Using a trained model: texts to vectors, vectors to texts, streamed in batches.

Needs MLX, NumPy and the tokenizer; no training dependency.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.chunks import (
    CPU_CHUNK_TOKENS_OF_FEW_LAYERS,
    Rows,
    run_chunks,
    windows_of,
)
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.ops import linear_cross_entropy
from energyflow_mlx.runs.record import Record
from energyflow_mlx.text.generation import Decoding, Generator, correct
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.foreign import SpellingWatch

_CPU_ROWS, _GPU_ROWS = 128, 2048  # decoded together; every beam is a row
TRAVELLERS = 16  # vectors that travel through a lattice together


def default_rows(decoding: Decoding) -> int:
    """Vectors decoded together where nothing else is asked: what fills the device."""
    rows = _CPU_ROWS if mx.default_device() == mx.Device(mx.cpu) else _GPU_ROWS
    return max(1, rows // decoding.beams)


@dataclass
class SentenceCodec:
    """A trained encoder and decoder with their tokenizer.

    Attributes:
        model: The network, an ``mlx.nn.Module``.
        tokenizer: Text to ids and back.
        config: The run's configuration.
        dimension: Size E of the vectors.
        record: What training did to the model; a part that it never reached is refused.
    """

    model: EnergyFlow
    tokenizer: Tokenizer
    config: Config
    dimension: int
    record: Record = field(default_factory=Record)
    _forward: Callable[[mx.array, mx.array], mx.array] = field(init=False)
    _losses: Callable[..., tuple[mx.array, mx.array]] = field(init=False)
    _generator: Generator = field(init=False)
    _spelling: SpellingWatch = field(init=False)

    def __post_init__(self) -> None:
        """Compile the forward passes, once for every batch shape."""
        self.model.eval()
        self._spelling = SpellingWatch(self.tokenizer, self.record.tokens_per_word)
        self._forward = self.model.compiled_encode()
        losses = functools.partial(_sentence_losses, self.model)
        self._losses = mx.compile(losses, inputs=[self.model.state])
        if "decoder" in self.model:
            self._generator = Generator(
                self.model.decoder, self.tokenizer.special, self.model.shared
            )

    def require(self, call: str, path: str) -> None:
        """Refuse a call that this model cannot answer.

        Args:
            call: What the user called, for the message.
            path: A key of ``EnergyFlow.paths``.

        Raises:
            InputError: A part on that path is missing, or was never trained.
        """
        parts = self.model.paths[path]
        self.record.require(call, parts)
        for part in parts:
            self.model.require(call, part.partition(".")[0])

    def notice(self, texts: Sequence[str]) -> None:
        """Look at texts to be encoded; warn once when the vocabulary is not for them.

        ``encode`` does so itself; this is for texts whose token ids are encoded.
        """
        self._spelling.look(texts)

    def cross_entropy(
        self, ids: mx.array, mask: mx.array, z: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Summed cross entropy and number of targets of padded sentences, lazy.

        Args:
            ids: Token ids, ``[B, L]`` int32.
            mask: 1 for real tokens, ``[B, L]``.
            z: Vectors the sentences are decoded from, ``[B, E]``.
        """
        return self._losses(ids, mask, z)

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 0,
        normalize: bool = True,
    ) -> np.ndarray:
        """Vectors of sentences, ``[N, E]`` float32, in the order of ``texts``.

        A sentence encoded alone equals the same sentence in any batch to 1e-5.

        Args:
            texts: Sentences; an empty one is encoded as start and end token.
            batch_size: Most sentences in a forward pass; 0 = as many as suit the
                device.
            normalize: Scale every vector to unit length.

        Raises:
            InputError: The model has no trained encoder, or ``batch_size`` is negative.
            TypeError: ``texts`` is a single string.
        """
        if isinstance(texts, str):
            raise TypeError("[encode] texts must be a list of strings, got one string.")
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for members, y in self.encode_windows(
            windows_of(texts), batch_size=batch_size, normalize=normalize
        ):
            vectors[members] = y
        return vectors

    def encode_windows(
        self,
        windows: Iterable[Sequence[str]],
        *,
        batch_size: int = 0,
        normalize: bool = True,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors of sentences that come in runs, as they become ready.

        A run is read and tokenised on a thread while the device encodes those before.

        Args:
            windows: Runs of sentences, such as ``chunks.WINDOW`` lines of a file.
            batch_size: As for ``encode``.
            normalize: As for ``encode``.

        Yields:
            Numbers of the sentences ``[B]``, counted over all runs, and their vectors
            ``[B, E]`` float32.

        Raises:
            InputError: As for ``encode``.
        """
        length = self.config.data.max_length

        def ids_of(texts: Sequence[str]) -> Rows:
            self.notice(texts)
            return self.tokenizer.encode(texts, length)

        rows = map(ids_of, windows)
        return self._encode_rows(rows, batch_size, normalize=normalize)

    def encode_ids(
        self, rows: Sequence[np.ndarray], *, batch_size: int = 0, normalize: bool
    ) -> np.ndarray:
        """Vectors of token id rows, ``[N, E]`` float32; see ``encode``.

        Raises:
            InputError: The model has no encoder, or an id is not in its token table.
        """
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        for members, y in self._encode_rows([rows], batch_size, normalize=normalize):
            vectors[members] = y
        return vectors

    def _encode_rows(
        self, windows: Iterable[Rows], batch_size: int, *, normalize: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors of token id rows that come in windows, as they become ready."""
        self.require("encode", "encode")
        if batch_size < 0:
            raise InputError(f"[encode] batch_size must be >= 0, got {batch_size}.")

        def forward(ids: mx.array, mask: mx.array | None) -> mx.array:
            known = mx.ones(ids.shape) if mask is None else mask
            return self._forward(ids, known).astype(mx.float32)

        # A row is cut where the training would have cut it.
        longest = self.config.data.buckets[-1]
        checked = map(self._checked_ids, windows)
        found = run_chunks(
            *(forward, checked, batch_size, longest),
            cpu_tokens=CPU_CHUNK_TOKENS_OF_FEW_LAYERS,
        )
        if not normalize:
            return found
        return ((members, unit_rows(y)) for members, y in found)

    def _checked_ids(self, rows: Rows) -> Rows:
        """Refuse ids that the device would look up outside the token table."""
        size = self.model.encoder.embedding.weight.shape[0]
        flat = np.concatenate(rows) if len(rows) else np.zeros(1, np.int32)
        if 0 <= flat.min() and flat.max() < size:
            return rows
        for number, row in enumerate(rows):
            if len(row) and not (0 <= row.min() and row.max() < size):
                raise InputError(
                    f"[encode] row {number}: token ids must be in [0, {size}), "
                    f"got {row.min()} to {row.max()}."
                )
        return rows

    def transform(self, vectors: np.ndarray, *, batch_size: int = 0) -> np.ndarray:
        """Send vectors through the model's lattice, ``[N, E]`` to ``[N, E]`` float32.

        Args:
            vectors: ``[N, E]``.
            batch_size: Most rows that travel together; 0 = 16.

        Raises:
            InputError: The model has no lattice, or parts of it were never trained.
            ValueError: ``vectors`` is not ``[N, E]``.
        """
        self.require("transform", "transform")
        vectors, size = np.asarray(vectors, np.float32), batch_size or TRAVELLERS
        parts = [
            np.array(self.model.transform(mx.array(vectors[i : i + size])))
            for i in range(0, len(vectors), size)
        ]
        return np.concatenate(parts) if parts else np.zeros_like(vectors)

    def decode(
        self,
        vectors: np.ndarray,
        *,
        batch_size: int = 0,
        **settings: Any,
    ) -> list[str]:
        """Texts that the decoder reads from vectors.

        Args:
            vectors: ``[N, E]``, scaled as the teacher's (unit length by default).
            batch_size: Vectors decoded together; 0 = as many as suit the device.
            **settings: Fields of ``Decoding``: ``max_length``, ``temperature``,
                ``top_k``, ``top_p``, ``beams``, ``length_penalty``, ``corrections``,
                ``seed``; greedy by default.

        Raises:
            InputError: A setting is out of range, or the model lacks a part.
            ValueError: ``vectors`` is not ``[N, E]`` or not finite.
        """
        return self.decode_rows(vectors, Decoding(**settings), batch_size=batch_size)

    def decode_rows(
        self,
        vectors: np.ndarray,
        decoding: Decoding,
        *,
        batch_size: int = 0,
        first_row: int = 0,
    ) -> list[str]:
        """Texts of some rows of a longer list; see ``decode``.

        Sentence ``i`` of the list depends on the seed and ``i`` only, however the list
        is cut.

        Args:
            vectors: ``[N, E]``.
            decoding: The settings.
            batch_size: As for ``decode``.
            first_row: Number of the first row in the list.
        """
        self.require("decode", "decode")
        if decoding.corrections:
            self.require("decode with corrections", "encode")
        if batch_size < 0:
            raise InputError(f"[decode] batch_size must be >= 0, got {batch_size}.")
        vectors = self._checked(vectors)
        texts: list[str] = []
        size = batch_size or default_rows(decoding)
        for start in range(0, len(vectors), size):
            z = vectors[start : start + size]
            texts += self.tokenizer.decode(self._told(z, decoding, first_row + start))
        return texts

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        """Rows to decode, float32; refuses a wrong shape and what is not finite."""
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(
                f"[decode] vectors must be [N, {self.dimension}], "
                f"got {list(vectors.shape)}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError("[decode] vectors must be finite, got NaN or infinity.")
        return vectors

    def _told(self, z: np.ndarray, decoding: Decoding, first_row: int) -> np.ndarray:
        """Token ids ``[B, T]`` of vectors ``[B, E]``, corrected if asked."""

        def tell(condition: np.ndarray) -> np.ndarray:
            return self._generator(condition, decoding, first_row=first_row)

        def hear(ids: np.ndarray) -> np.ndarray:
            # Through the text: its tokens may differ from those the decoder chose.
            return self.encode(self.tokenizer.decode(ids), normalize=False)

        if not decoding.corrections:
            return tell(z)
        return correct(tell, hear, z, rounds=decoding.corrections).ids


def _sentence_losses(
    model: EnergyFlow, ids: mx.array, mask: mx.array, z: mx.array
) -> tuple[mx.array, mx.array]:
    """Teacher-forced cross entropy over the whole vocabulary."""
    features = model.decode_features(ids[:, :-1], mask[:, :-1], z)
    count = mask[:, 1:].reshape(-1)
    weight, bias = model.decoder.output_layer()
    total = linear_cross_entropy(
        *(features.reshape(-1, features.shape[-1]), weight, bias),
        *(ids[:, 1:].reshape(-1), count),
        value_only=True,
    )
    return total, mx.sum(count)

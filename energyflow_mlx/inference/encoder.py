"""Texts to vectors, alone, in batches, and in streams."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.config.checks import require_whole
from energyflow_mlx.data.chunks import (
    CPU_CHUNK_TOKENS_OF_FEW_LAYERS,
    WINDOW,
    Rows,
    run_chunks,
    windows_of,
)
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.form import VectorForm, Vectors
from energyflow_mlx.inference.progress import shown
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.runs.record import Record
from energyflow_mlx.text.token_ids import require_ids
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.foreign import SpellingWatch


@dataclass
class SentenceEncoder:
    """The half of a codec that reads sentences.

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

    _spelling: SpellingWatch = field(init=False)
    _thread: int = field(init=False, default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        """Compile the forward pass, once for every batch shape."""
        self.model.eval()
        self._spelling = SpellingWatch(self.tokenizer, self.record.tokens_per_word)
        self._forward = self.model.compiled_encode()

    def require(self, call: str, path: str) -> None:
        """Refuse a call that this model cannot answer.

        Args:
            call: What the user called, for the message.
            path: A key of ``EnergyFlow.paths``.

        Raises:
            InputError: A part on that path is missing, or was never trained.
            RuntimeError: The model was loaded in another thread. MLX ties compiled
                functions and unfinished work to the thread that made them.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"[{call}] a model must be used in the thread that loaded it; "
                "docs/share.md has a few lines that serve many threads from one."
            )
        parts = self.model.paths[path]
        self.record.require(call, parts)
        for part in parts:
            self.model.require(call, part.partition(".")[0])

    def notice(self, texts: Sequence[str]) -> None:
        """Look at texts to be encoded; warn once when the vocabulary is not for them.

        ``encode`` does so itself; this is for texts whose token ids are encoded.
        """
        self._spelling.look(texts)

    def get_sentence_embedding_dimension(self) -> int:
        """Size E of the vectors."""
        return self.dimension

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 0,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = True,
    ) -> np.ndarray: ...

    @overload
    def encode(self, sentences: str | Sequence[str], **form: Any) -> Vectors: ...

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 0,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = True,
        **form: Any,
    ) -> Vectors:
        """Vectors of sentences in their order, float32 unless asked otherwise.

        A sentence encoded alone equals the same sentence in any batch to 1e-5.

        Args:
            sentences: One sentence, or several; an empty one is encoded as start and
                end token.
            batch_size: Most sentences in a forward pass; 0 = as many as suit the
                device.
            show_progress_bar: Draw a bar on the terminal (needs ``rich``).
            normalize_embeddings: Scale every vector to unit length.
            **form: Fields of ``VectorForm``: ``convert_to_numpy``,
                ``convert_to_tensor``, ``truncate_dim``, ``precision``.

        Returns:
            ``[E]`` for one sentence, else ``[N, E]``.

        Raises:
            InputError: The model has no trained encoder, or a setting is out of range.
        """
        asked = VectorForm(**form)
        texts = [sentences] if isinstance(sentences, str) else sentences
        if isinstance(texts, bytes | dict) or not hasattr(texts, "__len__"):
            raise InputError(
                "[encode] sentences must be a text or a list of texts, got "
                f"{type(texts).__name__}; encode_stream takes any iterable."
            )
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        found = self.encode_windows(
            windows_of(texts), batch_size=batch_size, normalize=False
        )
        for members, y in shown(found, len(texts), visible=show_progress_bar):
            vectors[members] = y
        vectors = asked.cut(vectors, normalize=normalize_embeddings)
        handed_out = asked.hand_out(vectors)
        return handed_out[0] if isinstance(sentences, str) else handed_out

    def encode_stream(
        self,
        sentences: Iterable[str],
        *,
        batch_size: int = 0,
        normalize_embeddings: bool = True,
    ) -> Iterator[np.ndarray]:
        """Vectors of sentences that come one by one, in their order.

        Sentences are read some thousands ahead, on a thread; no more than these are
        held.

        Args:
            sentences: Any iterable, such as the lines of a file or a generator.
            batch_size: As for ``encode``.
            normalize_embeddings: As for ``encode``.

        Yields:
            ``[E]`` float32 for each sentence.

        Raises:
            InputError: As for ``encode``.
        """
        remaining = iter(sentences)
        windows = iter(lambda: list(itertools.islice(remaining, WINDOW)), [])
        found = self.encode_windows(
            windows, batch_size=batch_size, normalize=normalize_embeddings
        )
        # Chunks come in the order of their lengths: a vector waits for those before it.
        waiting: dict[int, np.ndarray] = {}
        following = 0
        for members, y in found:
            waiting |= zip(members.tolist(), y, strict=True)
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine of every row of ``a`` with every row of ``b``.

        Args:
            a: Vectors, ``[N, E]`` or one ``[E]``.
            b: Vectors, ``[M, E]`` or one ``[E]``.

        Returns:
            ``[N, M]`` float32.

        Raises:
            ValueError: They are not of one size.
        """
        first, second = unit_rows(np.atleast_2d(a)), unit_rows(np.atleast_2d(b))
        if first.shape[1:] != second.shape[1:]:
            raise ValueError(
                f"[similarity] a and b must be [N, E] and [M, E], got "
                f"{list(first.shape)} and {list(second.shape)}."
            )
        return first @ second.T

    def similarity_pairwise(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine of matching rows.

        Args:
            a: Vectors, ``[N, E]`` or one ``[E]``.
            b: As many vectors.

        Returns:
            ``[N]`` float32.

        Raises:
            ValueError: They are not as many.
        """
        first, second = unit_rows(np.atleast_2d(a)), unit_rows(np.atleast_2d(b))
        if first.shape != second.shape:
            raise ValueError(
                f"[similarity] a and b must have one shape, got {list(first.shape)} "
                f"and {list(second.shape)}."
            )
        return np.einsum("ne,ne->n", first, second)

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
            _require_texts(texts)
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
        require_whole(batch_size, "batch_size", 0, room="encode")

        def forward(ids: mx.array, mask: mx.array | None) -> mx.array:
            known = mx.ones(ids.shape) if mask is None else mask
            return self._forward(ids, known).astype(mx.float32)

        # A row is cut where the training would have cut it.
        longest, most = self.config.data.buckets[-1], self.model.most_rows
        if most:
            batch_size = min(batch_size or most, most)
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
        if all(row.ndim == 1 for row in rows):
            flat = np.concatenate(rows) if len(rows) else np.zeros(1, np.int32)
            if flat.dtype.kind in "iu" and 0 <= flat.min() and flat.max() < size:
                return rows
        for number, row in enumerate(rows):
            if row.ndim != 1:
                raise InputError(
                    f"[encode] row {number}: token ids must be [L], got "
                    f"{list(row.shape)}."
                )
            require_ids("encode", row, size, f"row {number}: ")
        return rows


def _require_texts(texts: Sequence[str]) -> None:
    """Refuse what is no text, and text that no file in UTF-8 could hold."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InputError(f"[encode] sentence {number} must be a text, got {kind}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"[encode] sentence {number} must be UTF-8 text, got half a surrogate."
            ) from error

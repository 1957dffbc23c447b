"""Using a trained model: texts to vectors, vectors to texts, streamed in batches."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import numpy as np

from energyflow_mlx.config.checks import require_whole
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.correcting import Embed, Rounds
from energyflow_mlx.inference.encoder import SentenceEncoder
from energyflow_mlx.inference.formats import card, folder
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.ops import linear_cross_entropy
from energyflow_mlx.runtime import jit_headers
from energyflow_mlx.teacher.load import embed_with, teacher_from
from energyflow_mlx.text.generation import Decoding, Generator
from energyflow_mlx.text.generation.correction import Correction
from energyflow_mlx.text.token_ids import checked_tokens

_CPU_ROWS, _GPU_ROWS = 128, 2048  # decoded together; every beam and try is a row
_CAPTIONS = 200  # that stored weights are compared on
TRAVELLERS = 16  # vectors that travel through a lattice together


def default_rows(decoding: Decoding) -> int:
    """Vectors decoded together where nothing else is asked: what fills the device."""
    rows = _CPU_ROWS if mx.default_device() == mx.Device(mx.cpu) else _GPU_ROWS
    return max(1, rows // (decoding.beams * decoding.samples))


@dataclass
class SentenceCodec(SentenceEncoder):
    """A trained encoder and decoder with their tokenizer.

    Attributes as in ``SentenceEncoder``.
    """

    _losses: Callable[..., tuple[mx.array, mx.array]] = field(init=False)
    _generator: Generator = field(init=False)
    _teacher: Embed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Compile the forward passes, once for every batch shape."""
        super().__post_init__()
        losses = functools.partial(_sentence_losses, self.model)
        self._losses = mx.compile(losses, inputs=[self.model.state])
        if "decoder" in self.model:
            self._generator = Generator(
                self.model.decoder,
                self.tokenizer.special,
                self.model.shared,
                self.model.get("corrector"),
            )

    def cross_entropy(
        self, ids: mx.array, mask: mx.array, z: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Summed cross entropy and number of targets of padded sentences, lazy.

        Args:
            ids: Token ids, ``[B, L]`` int32.
            mask: 1 for real tokens, ``[B, L]``.
            z: Vectors the sentences are decoded from, ``[B, E]``.

        Raises:
            InputError: The model has no decoder, shapes do not fit, or an id is not in
                the vocabulary.
        """
        self.model.require("cross_entropy", "decoder")
        size = self.model.decoder.embedding.weight.shape[0]
        return self._losses(*checked_tokens("cross_entropy", ids, mask, size), z)

    # Folders to share ----------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path) -> Self:
        """Open a folder that ``export`` or ``save_pretrained`` wrote.

        Args:
            path_or_id: The folder, or ``user/name`` on the Hugging Face hub.

        Raises:
            InputError: There is no such folder, or it is damaged or something else.
        """
        found = folder.open_folder(folder.find_folder(path_or_id))
        jit_headers.prepare()
        return cls(
            found.model, found.tokenizer, found.config, found.dimension, found.record
        )

    def as_pretrained(self) -> folder.Pretrained:
        """What a folder of this model holds."""
        return folder.Pretrained(
            self.model, self.tokenizer, self.config, self.dimension, self.record
        )

    def save_pretrained(
        self,
        path: str | Path,
        *,
        dtype: str = "float32",
        facts: card.CardFacts | None = None,
    ) -> None:
        """Write model, tokenizer and model card into a folder, all of it or nothing.

        Args:
            path: A folder that is new, empty or holds an earlier export alone.
            dtype: ``float32``, ``float16``, ``bfloat16``, ``int8`` or ``int4``.
            facts: What the card says beside what the model knows of itself.

        Raises:
            InputError: The folder holds other files, or a weight overflows ``dtype``.
        """
        source = self.as_pretrained()
        with folder.new_folder(Path(path)) as aside:
            folder.write_model(aside, source, dtype)
            closeness = self._closeness(aside) if dtype != "float32" else {}
            known = replace(facts or card.CardFacts(), closeness=closeness)
            card.write_card(aside, source, dtype, known)

    def _closeness(self, stored: Path) -> dict[str, float]:
        """Cosines of a folder's vectors with this model's, on built-in captions."""
        if "encoder" not in self.model:
            return {}
        texts = generate_captions(_CAPTIONS, seed=0)
        other = self.from_pretrained(stored)
        cosines = self.similarity_pairwise(self.encode(texts), other.encode(texts))
        return {
            f"mean cosine with float32, {_CAPTIONS} built-in captions": cosines.mean(),
            "least of them": cosines.min(),
        }

    def transform(self, vectors: np.ndarray, *, batch_size: int = 0) -> np.ndarray:
        """Send vectors through the model's lattice, ``[N, E]`` to ``[N, E]`` float32.

        Args:
            vectors: ``[N, E]``.
            batch_size: Most rows that travel together; 0 = 16.

        Raises:
            InputError: The model has no lattice, or parts of it were never trained.
            ValueError: ``vectors`` is not ``[N, E]`` or not finite.
        """
        self.require("transform", "transform")
        require_whole(batch_size, "batch_size", 0, room="transform")
        size = min(batch_size or TRAVELLERS, self.model.most_rows)
        vectors = self._checked(vectors, "transform")
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
                ``samples``, ``embedder``, ``seed``; greedy by default.

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
        texts: list[str] = []
        self.require("decode", "decode")
        rounds = self._rounds(decoding) if decoding.is_checked else None
        for start, z in self._batches(vectors, decoding, batch_size):
            number = first_row + start
            if rounds is None:
                numbers = number + np.arange(len(z))
                ids = self._generator(z, decoding, numbers=numbers)
            else:
                *_, last = rounds(z, decoding, number)
                ids = last.ids
            texts += self.tokenizer.decode(ids)
        return texts

    def corrected(
        self, vectors: np.ndarray, decoding: Decoding, *, batch_size: int = 0
    ) -> Iterator[Iterator[Correction]]:
        """For each batch of rows: their sentences after 0, 1, ... corrections.

        Args:
            vectors: ``[N, E]``.
            decoding: The settings.
            batch_size: As for ``decode``.
        """
        rounds = self._rounds(decoding)
        for start, z in self._batches(vectors, decoding, batch_size):
            yield rounds(z, decoding, start)

    def _batches(
        self, vectors: np.ndarray, decoding: Decoding, batch_size: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Rows that are decoded together, and the number of the first of them."""
        require_whole(batch_size, "batch_size", 0, room="decode")
        vectors = self._checked(vectors, "decode")
        size = batch_size or default_rows(decoding)
        for start in range(0, len(vectors), size):
            yield start, vectors[start : start + size]

    def _checked(self, vectors: np.ndarray, call: str) -> np.ndarray:
        """Rows as float32; refuses a wrong shape or kind and what is not finite."""
        given = np.asarray(vectors)
        if given.dtype.kind not in "fiu":
            raise ValueError(f"[{call}] vectors must be numbers, got {given.dtype}.")
        with np.errstate(over="ignore"):  # an infinity is refused below
            vectors = given.astype(np.float32, copy=False)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(
                f"[{call}] vectors must be [N, {self.dimension}], "
                f"got {list(vectors.shape)}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"[{call}] vectors must be finite, got NaN or infinity.")
        return vectors

    def _rounds(self, decoding: Decoding) -> Rounds:
        """What corrects sentences and compares tries."""
        self.require("decode", "decode")
        return Rounds(
            self._generator,
            self.tokenizer,
            self.embedder(decoding.embedder),
            self.config.data.max_length,
            "corrector" in self.model,
        )

    def teach(self, embed: Embed | None) -> None:
        """Give the model its teacher, which it otherwise loads when it is wanted.

        Args:
            embed: The teacher's vectors of texts, ``[N, E]``.
        """
        self._teacher = embed

    def embedder(self, name: str) -> Embed:
        """What gives the vectors that decoded texts are compared by.

        Args:
            name: ``student``: the model's own encoder, or ``teacher``: its run's.

        Raises:
            InputError: The model has no trained encoder, or the teacher reads no text
                or is not there.
        """
        if name == "student":
            if "encoder" not in self.model:
                raise InputError(
                    "[decode with corrections] this model has no encoder; "
                    "embedder=teacher compares texts by its run's teacher."
                )
            self.require("decode with corrections", "encode")
            return functools.partial(self.encode, normalize_embeddings=False)
        if self._teacher is None:
            settings = self.config.teacher
            if settings.kind == "precomputed":
                raise InputError(
                    "[decode] embedder must be student: this model's teacher was a "
                    "file of vectors, which reads no text."
                )
            self._teacher = embed_with(teacher_from(settings), settings.batch_size)
        return self._teacher


def _sentence_losses(
    model: EnergyFlow, ids: mx.array, mask: mx.array, z: mx.array
) -> tuple[mx.array, mx.array]:
    """Teacher-forced cross entropy over the whole vocabulary."""
    decoder, shared = model.decoder, model.shared
    features = decoder.features(ids[:, :-1], mask[:, :-1], z, shared=shared)
    count = mask[:, 1:].reshape(-1)
    weight, bias = decoder.output_layer()
    total = linear_cross_entropy(
        *(features.reshape(-1, features.shape[-1]), weight, bias),
        *(ids[:, 1:].reshape(-1), count),
        value_only=True,
    )
    return total, mx.sum(count)

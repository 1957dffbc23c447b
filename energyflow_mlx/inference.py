"""Using a trained model: texts to vectors, vectors to texts, streamed in batches.

Needs MLX, NumPy and the tokenizer; no training dependency.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import cover, pad_rows
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import sequence_cross_entropy
from energyflow_mlx.text.generation.generate import generate
from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer


@dataclass
class SentenceCodec:
    """A trained encoder and decoder with their tokenizer.

    Attributes:
        model: The network, an ``mlx.nn.Module``.
        tokenizer: Text to ids and back.
        config: The run's configuration.
        dimension: Size E of the vectors.
    """

    model: EnergyFlow
    tokenizer: Tokenizer
    config: Config
    dimension: int
    _forward: Callable[[mx.array, mx.array], mx.array] = field(init=False)
    _losses: Callable[..., tuple[mx.array, mx.array]] = field(init=False)

    def __post_init__(self) -> None:
        """Compile the forward passes, once for every batch shape."""
        self.model.eval()
        compiled = functools.partial(mx.compile, inputs=[self.model.state])
        if self.config.lattice is None:
            self._forward = compiled(self.model.encode)
        else:
            self._forward = functools.partial(
                _through_lattice, self.model, compiled(self.model.encode_surface)
            )
        self._losses = compiled(functools.partial(_sentence_losses, self.model))

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
        batch_size: int = 64,
        normalize: bool = True,
    ) -> np.ndarray:
        """Vectors of sentences, ``[N, E]`` float32.

        A sentence encoded alone equals the same sentence in any batch to 1e-5.

        Args:
            texts: Sentences; an empty one is encoded as start and end token.
            batch_size: Sentences per forward pass.
            normalize: Scale every vector to unit length.

        Raises:
            TypeError: ``texts`` is a single string.
        """
        if self.config.task == "flow":
            raise InputError("[encode] a flow run has no text encoder; use transform.")
        if isinstance(texts, str):
            raise TypeError("[encode] texts must be a list of strings, got one string.")
        rows = self.tokenizer.encode(texts, self.config.data.max_length)
        return self.encode_ids(rows, batch_size=batch_size, normalize=normalize)

    def encode_ids(
        self, rows: Sequence[np.ndarray], *, batch_size: int, normalize: bool
    ) -> np.ndarray:
        """Vectors of token id rows, ``[N, E]`` float32; see ``encode``."""
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        for bucket, members in cover(rows, self.config.data.buckets, batch_size):
            ids, mask = pad_rows([rows[i] for i in members], bucket)
            batch = self._forward(mx.array(ids), mx.array(mask))
            vectors[members] = np.asarray(batch.astype(mx.float32))
        return unit_rows(vectors) if normalize else vectors

    def transform(self, vectors: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """Send vectors through the run's lattice, ``[N, E]`` to ``[N, E]`` float32.

        Raises:
            InputError: The run has no lattice.
            ValueError: ``vectors`` is not ``[N, E]``.
        """
        if self.config.lattice is None:
            raise InputError("[transform] the run must have a lattice, got none.")
        vectors = np.asarray(vectors, np.float32)
        parts = [
            np.array(self.model.lattice(mx.array(vectors[i : i + batch_size])).vector)
            for i in range(0, len(vectors), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros_like(vectors)

    def decode(
        self,
        vectors: np.ndarray,
        *,
        max_length: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        beams: int = 1,
        seed: int = 0,
        batch_size: int = 128,
    ) -> list[str]:
        """Texts that the decoder reads from vectors.

        Args:
            vectors: ``[N, E]``, scaled as the teacher's (unit length by default).
            max_length: Longest text in tokens.
            temperature: 0 = greedy; otherwise sampling.
            top_k: Sample among the k likeliest tokens; 0 = all.
            top_p: Sample within this probability mass.
            beams: Width of beam search; 1 = off.
            seed: Of the sampling.
            batch_size: Vectors decoded together.

        Raises:
            ValueError: ``vectors`` is not ``[N, E]`` or not finite.
        """
        if self.config.task == "flow":
            raise InputError("[decode] a flow run has no text decoder.")
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(
                f"[decode] vectors must be [N, {self.dimension}], "
                f"got {list(vectors.shape)}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError("[decode] vectors must be finite, got NaN or infinity.")
        texts: list[str] = []
        for start in range(0, len(vectors), batch_size):
            ids = generate(
                self.model.decoder,
                mx.array(vectors[start : start + batch_size]),
                start_id=self.tokenizer.start_id,
                end_id=self.tokenizer.end_id,
                pad_id=self.tokenizer.pad_id,
                max_length=max_length,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                beams=beams,
                seed=seed,
                first_row=start,
                shared=self.model.shared,
            )
            texts += self.tokenizer.decode(ids)
        return texts


def _through_lattice(
    model: EnergyFlow,
    surface: Callable[[mx.array, mx.array], mx.array],
    ids: mx.array,
    mask: mx.array,
) -> mx.array:
    """Vectors of sentences; the lattice compiles its step itself."""
    return model.lattice.from_surface(surface(ids, mask)).vector


def _sentence_losses(
    model: EnergyFlow, ids: mx.array, mask: mx.array, z: mx.array
) -> tuple[mx.array, mx.array]:
    """Teacher-forced cross entropy over the whole vocabulary."""
    logits = model.decoder.logits(model.decode_features(ids[:, :-1], mask[:, :-1], z))
    return sequence_cross_entropy(logits, ids[:, 1:], mask[:, 1:])

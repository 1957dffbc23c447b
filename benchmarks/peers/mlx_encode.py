"""Our side of encoding: texts to vectors, tokenization included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import numpy as np

from benchmarks.peers.captions import ab_config, start_model
from benchmarks.peers.settings import Settings
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.training.feed import RunData


class EncodeCase:
    """Every sentence of a list encoded once.

    Args:
        settings: Of the comparison.
        data: Tokenizer and the start of the token table.
        texts: The list.
        folder: Where weights and texts go, for the other side.
    """

    def __init__(
        self, settings: Settings, data: RunData, texts: list[str], folder: Path
    ) -> None:
        config = ab_config(settings)
        model = start_model(config, data)
        self._codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
        self._texts = texts
        weights = {k: np.array(w) for k, w in flat_parameters(model).items()}
        np.savez(folder / "weights.npz", **weights)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        data.tokenizer.save(folder)
        # Student id of each piece of the teacher's vocabulary.
        student = np.zeros(data.tokenizer.source_ids.max() + 1, np.int64)
        student[data.tokenizer.source_ids] = np.arange(data.tokenizer.vocab_size)
        np.savez(folder / "student.npz", ids=student)
        self.facts: dict[str, Any] = {
            "items": len(texts),
            "vocabulary": data.tokenizer.vocab_size,
            "parameters": sum(w.size for w in weights.values()),
        }

    def call(self) -> np.ndarray:
        """Encode the list."""
        return self._codec.encode(self._texts)

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Mean of the squared vectors, and the vectors."""
        vectors = self.call()
        return float(np.square(vectors).mean()), {"gradient output": vectors}

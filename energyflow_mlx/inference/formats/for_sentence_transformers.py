"""A sentence encoder as a module of sentence-transformers; runs ``model.onnx``.

This file travels with the model as ``energyflow_onnx.py`` and needs numpy, onnxruntime,
tokenizers and torch; nothing of energyflow_mlx.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from tokenizers import Tokenizer

_FILES = ("model.onnx", "tokenizer.json", "config.json")


class EnergyFlowOnnx(torch.nn.Module):
    """Texts to ids to unit vectors."""

    save_in_root = True  # where the library looks for this file when it loads again

    def __init__(self, folder: str) -> None:
        """Open the files of a folder.

        Args:
            folder: Holds ``model.onnx``, ``tokenizer.json`` and ``config.json``.
        """
        super().__init__()
        self._folder = Path(folder)
        self._session = onnxruntime.InferenceSession(str(self._folder / "model.onnx"))
        self.tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        # "[SEP]" in a text is five characters, not the end of the sentence.
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.enable_padding()
        config = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
        self._dimension = int(config["dimension"])
        self.max_seq_length = int(config["max_length"])

    @classmethod
    def load(cls, input_path: str) -> "EnergyFlowOnnx":
        """The module of a folder, as sentence-transformers opens it."""
        return cls(input_path)

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """Ids and mask of texts, ``[B, L]`` int64 each.

        Args:
            inputs: The texts.
            prompt: Put in front of each.
        """
        texts = [f"{prompt or ''}{text}" for text in inputs]
        rows = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return {
            "input_ids": torch.tensor([row.ids for row in rows], dtype=torch.int64),
            "attention_mask": torch.tensor(
                [row.attention_mask for row in rows], dtype=torch.int64
            ),
        }

    def forward(
        self, features: dict[str, torch.Tensor], **_: Any
    ) -> dict[str, torch.Tensor]:
        """Add ``sentence_embedding``, ``[B, E]`` float32, to the features."""
        fed = {
            name: np.ascontiguousarray(features[name].cpu().numpy())
            for name in ("input_ids", "attention_mask")
        }
        (vectors,) = self._session.run(None, fed)
        return {**features, "sentence_embedding": torch.from_numpy(vectors)}

    def get_embedding_dimension(self) -> int:
        """Size E of the vectors."""
        return self._dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the files into another folder."""
        for name in _FILES:
            shutil.copyfile(self._folder / name, Path(output_path) / name)

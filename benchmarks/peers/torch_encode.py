"""The twin's side of encoding: batches of like lengths, tokenization included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from benchmarks.peers.torch_model import Twin


def worth_trying(precision: str) -> list[str]:
    """Sizes of a batch that may be the fastest, with ``+low`` for bfloat16."""
    names = ["64", "256", "1024"]
    return names if precision == "float32" else [f"{name}+low" for name in names]


class EncodeCase:
    """Every sentence of a list encoded once.

    Args:
        folder: What our side wrote.
        variant: One of ``worth_trying``.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, folder: Path, variant: str, device: str) -> None:
        size, _, low = variant.partition("+")
        self._size, self._device = int(size), device
        weights = {
            k: torch.tensor(w, device=device)
            for k, w in np.load(folder / "weights.npz").items()
        }
        self._model = Twin(weights, "taps").eval()
        if low:
            self._model = self._model.bfloat16()
        self._texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(128)
        self._student = np.load(folder / "student.npz")["ids"]

    @torch.inference_mode()
    def call(self) -> np.ndarray:
        """Encode the list."""
        rows = [e.ids for e in self._tokenizer.encode_batch_fast(self._texts)]
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(lengths, kind="stable")
        found = []
        for start in range(0, len(order), self._size):
            members = order[start : start + self._size]
            mask = np.arange(lengths[members[-1]]) < lengths[members][:, None]
            ids = np.zeros(mask.shape, np.int64)
            ids[mask] = self._student[np.concatenate([rows[i] for i in members])]
            found.append(self._forward(torch.from_numpy(ids), torch.from_numpy(mask)))
        # On a GPU all batches are under way before the first is read.
        vectors = torch.cat(found).float().cpu().numpy()
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ids = ids.to(self._device, non_blocking=True)
        encoder, shared = self._model.encoder, self._model.shared
        dtype = encoder.head.weight.dtype
        real = mask.to(self._device, non_blocking=True)[..., None].to(dtype)
        return F.normalize(encoder(ids, real, shared).float(), dim=-1)

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Mean of the squared vectors, and the vectors."""
        vectors = self.call()
        return float(np.square(vectors).mean()), {"gradient output": vectors}

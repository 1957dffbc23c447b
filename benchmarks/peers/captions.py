"""Sentences, vectors and tokenizer of the comparison, kept in one small folder.

Made once where the teacher is; a machine without it takes the folder along:

    python -m benchmarks.peers.captions [data=FILE] [folder=FOLDER]

Vectors are kept as float16 (both sides read the same ones), so that the built-in
captions take about 17 MB.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from benchmarks.peers.settings import Settings, parse, refuse
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.feed import RunData

_HELD_OUT = 1000
_ENCODED = 2048  # training sentences that are encoded
_ARRAYS = "captions.npz"


def ab_config(settings: Settings) -> Config:
    """The main job, ``+experiment=ab``; written out, since Hydra may not be there."""
    config = Config(name="ab")
    config.objectives.distillation.lr = 3e-3
    config.objectives.reconstruction.latent_noise = 0.1
    config.token_rows.candidates = 2048
    config.data.buckets = []
    config.trainer.epochs = 6
    config.precision.dtype = settings.precision
    config.data.train = [settings.data] if settings.data else []
    return config


def start_model(config: Config, data: RunData) -> EnergyFlow:
    """The model of a run before its first update."""
    parts = parts_of(build_objectives(config))
    size = data.tokenizer.vocab_size
    model = build_model(config, parts, size, data.dimension)
    start_tables(model, config, data.word_embeddings)
    mx.eval(model.parameters())
    return model


def folder_of(settings: Settings) -> Path:
    """Folder of the data that the settings ask for."""
    name = Path(settings.data).name.split(".")[0] if settings.data else "builtin"
    return Path(settings.folder) / name


def make(settings: Settings) -> None:
    """Read the sentences, have the teacher's vectors made, write the folder."""
    from energyflow_mlx.build.data import load_run_data, read_sets
    from energyflow_mlx.display import RunDisplay

    config, folder = ab_config(settings), folder_of(settings)
    with RunDisplay(log_every=20, title="captions") as display:
        data = load_run_data(config, build_objectives(config), None, display)
    folder.mkdir(parents=True, exist_ok=True)
    data.tokenizer.save(folder / "tokenizer")
    held_out = data.held_out.first(_HELD_OUT)
    assert data.word_embeddings is not None
    np.savez(
        folder / _ARRAYS,
        texts=np.array(held_out.texts),
        encode_texts=np.array((read_sets(config)[0].texts or [])[:_ENCODED]),
        words=data.word_embeddings.astype(np.float16),
        **_packed("train", data.train_ids, data.train_targets),
        **_packed("held_out", list(held_out.ids), held_out.targets),
    )


def _packed(name: str, ids: list[np.ndarray], targets: np.ndarray) -> dict[str, Any]:
    return {
        f"{name}_ids": np.concatenate(ids).astype(np.int32),
        f"{name}_lengths": np.array([len(row) for row in ids]),
        f"{name}_targets": targets.astype(np.float16),
    }


def load(settings: Settings) -> RunData:
    """Data of a run; with a larger vocabulary the ids are spread over it."""
    folder = folder_of(settings)
    if not (folder / _ARRAYS).exists():
        make(settings)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    own = tokenizer.vocab_size
    size = settings.vocabulary or own
    if size < own:
        raise ValueError(f"[peers] vocabulary must be >= {own}, got {size}.")
    with np.load(folder / _ARRAYS) as arrays:
        train, held_out = (_sentences(arrays, n) for n in ("train", "held_out"))
        words, texts = arrays["words"].astype(np.float32), list(arrays["texts"])
    data = RunData(
        tokenizer=tokenizer,
        train_ids=train[0],
        train_targets=train[1],
        held_out=HeldOut(texts, *held_out),
        word_embeddings=words,
        dimension=train[1].shape[1],
        source=folder.name,
        teacher="minilm",
        embed=None,
    )
    return data if size == own else _spread(data, size)


def encode_texts(settings: Settings) -> list[str]:
    """Sentences of the case ``encode``; ``load`` has been called."""
    with np.load(folder_of(settings) / _ARRAYS) as arrays:
        return [str(text) for text in arrays["encode_texts"]]


def _sentences(arrays: Any, name: str) -> tuple[list[np.ndarray], np.ndarray]:
    ends = np.cumsum(arrays[f"{name}_lengths"])
    ids = np.split(arrays[f"{name}_ids"], ends[:-1])
    return ids, arrays[f"{name}_targets"].astype(np.float32)


def _spread(data: RunData, size: int) -> RunData:
    """The same sentences in a vocabulary of ``size``; 0, the padding, stays 0."""
    assert data.word_embeddings is not None
    own, width = data.word_embeddings.shape
    place = np.arange(own, dtype=np.int64) * size // own
    rows = np.random.default_rng(0).permutation(np.arange(size) % own)
    words = data.word_embeddings[rows]
    words[place] = data.word_embeddings
    held_out = replace(
        data.held_out, ids=[_placed(r, place) for r in data.held_out.ids]
    )
    return replace(
        data,
        tokenizer=SimpleNamespace(vocab_size=size),
        train_ids=[_placed(row, place) for row in data.train_ids],
        held_out=held_out,
        word_embeddings=words,
    )


def _placed(row: np.ndarray, place: np.ndarray) -> np.ndarray:
    return place[row].astype(np.int32)


if __name__ == "__main__":
    try:
        make(parse(sys.argv[1:]))
    except ValueError as error:
        refuse(error)

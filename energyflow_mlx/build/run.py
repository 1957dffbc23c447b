"""A run from its configuration: everything it needs is made here, then it trains."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.data.batching import lengths_that_pad_least
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime import device, jit_headers
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.objectives import Objective
from energyflow_mlx.training.run import show_result, train


def run(config: Config, overrides: list[str] | None = None) -> dict[str, Any]:
    """Train as configured, in the configured folder; resumes what is there.

    Args:
        config: The run's configuration.
        overrides: What the user changed, for summary and tables.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        InputError: The user's input does not fit; nothing has been written.
    """
    folder = RunFolder(Path(config.run.dir))
    objectives = build_objectives(config)
    device.select(config.trainer.backend)
    _take_choices(config, folder)
    folder.check(config)
    jit_headers.prepare()
    if config.trainer.memory_limit_gb:
        mx.set_memory_limit(int(config.trainer.memory_limit_gb * 2**30))
    with RunDisplay(log_every=config.trainer.log_every, title=config.name) as display:
        summary = folder.read_summary()
        if summary.get("status") in ("finished", "stopped early"):
            display.message(f"{folder.path} is {summary['status']}; nothing to do")
            show_result(display, summary)
            return summary
        trainer = build_trainer(config, objectives, folder, display)
        if not folder.exists():
            trainer.data.tokenizer.save(folder.tokenizer)
            folder.begin(config)
        return train(trainer, overrides or [])


def _take_choices(config: Config, folder: RunFolder) -> None:
    """Settle what the user leaves open: the number format and the lengths of batches.

    A run that is resumed, here or on another device, keeps what it began with. The
    lengths of a new run follow from its sentences: see ``build_trainer``.
    """
    begun = folder.read_config() if folder.exists() else None
    if config.precision.dtype == "auto":
        own = begun.precision.dtype if begun else device.fast_format()
        config.precision.dtype = own
    if not config.data.buckets and begun:
        config.data.buckets = begun.data.buckets


def build_trainer(
    config: Config,
    objectives: dict[str, Objective],
    folder: RunFolder,
    display: RunDisplay,
) -> Trainer:
    """Data, model and trainer of a run, at its newest checkpoint; writes nothing.

    Args:
        config: The run's configuration; gets the lengths of its batches, where it
            has none.
        objectives: What it trains.
        folder: Its folder; with a run in it, that run's tokenizer and state are taken.
        display: Shows the progress of what takes long.

    Raises:
        InputError: The user's input does not fit.
    """
    resumed = folder.tokenizer if folder.exists() else None
    data = load_run_data(config, objectives, resumed, display)
    if not config.data.buckets:
        config.data.buckets = _lengths_for(data.train_ids, config.data)
    parts, vocab_size = parts_of(objectives), data.tokenizer.vocab_size
    model = build_model(config, parts, vocab_size, data.dimension)
    start_tables(model, config, data.word_embeddings)
    codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
    return Trainer(config, objectives, codec, data, folder, display)


def _lengths_for(ids: list[np.ndarray], settings: DataConfig) -> list[int]:
    """Lengths that pad the training sentences least, and the longest that is read.

    That one is for texts that the model meets later; training fills it where its own
    sentences are so long.
    """
    lengths = np.array([max(4, len(row)) for row in ids])
    chosen = lengths_that_pad_least(lengths, settings.most_buckets)
    return sorted({*chosen, settings.max_length})

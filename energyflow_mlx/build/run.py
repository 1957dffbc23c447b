"""A run from its configuration: everything it needs is made here, then it trains."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from rich.console import Console

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder, deciding
from energyflow_mlx.runtime import device, distributed
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.loop import Trainer
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
    objectives = build_objectives(config)
    device.select(config.trainer.backend)
    if config.trainer.memory_limit_gb:
        mx.set_memory_limit(int(config.trainer.memory_limit_gb * 2**30))
    group = distributed.join()
    folder = RunFolder(Path(config.run.dir), group.is_writer)
    if not group.is_writer:  # the others keep to errors
        logging.getLogger("energyflow_mlx").setLevel(logging.WARNING)
    display = RunDisplay(
        log_every=config.trainer.log_every,
        title=config.name,
        console=None if group.is_writer else Console(quiet=True, force_terminal=False),
    )
    with group.watched(), display:
        summary = group.of_first(partial(_begun, folder, config))
        if summary.get("status") in ("finished", "stopped early"):
            display.message(f"{folder.path} is {summary['status']}; nothing to do")
            show_result(display, summary)
            return summary
        resumed = folder.is_writer and folder.exists()
        words = folder.tokenizer if resumed else None
        data = load_run_data(config, objectives, words, display)
        _require_same(group, config, data)
        parts, vocab_size = parts_of(objectives), data.tokenizer.vocab_size
        model = build_model(config, parts, vocab_size, data.dimension)
        start_tables(model, config, data.word_embeddings)
        codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
        if not resumed and folder.is_writer:
            data.tokenizer.save(folder.tokenizer)
            folder.begin(config)
        trainer = Trainer(config, objectives, codec, data, folder, display, group)
        return train(trainer, overrides or [])


def _begun(folder: RunFolder, config: Config) -> dict[str, Any]:
    """The summary of the run in the folder, if it has ended, once the folder fits."""
    folder.check(config)
    return folder.read_summary()


def _require_same(group: distributed.Group, config: Config, data: RunData) -> None:
    """Refuse processes that would not plan the same updates.

    Raises:
        InputError: Settings, training sentences or tokenizer differ from those of the
            first process.
    """
    facts = hashlib.sha256(repr(deciding(config)).encode())
    for row in data.train_ids:
        facts.update(np.int32(len(row)).tobytes() + row.astype(np.int32).tobytes())
    own = facts.hexdigest()
    if group.of_first(lambda: own) != own:
        raise InputError(
            f"[distributed] process {group.rank} must have the settings, the training "
            "sentences and the tokenizer of process 0, got others: give all the same "
            "files and the same command."
        )

"""A run from its configuration: everything it needs is made here, then it trains."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import Config
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
    if config.precision.dtype == "auto":
        config.precision.dtype = _format_of(folder)
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


def _format_of(folder: RunFolder) -> str:
    """Number format of a run that leaves the choice: what the device does well.

    A run that is resumed, here or on another device, keeps the one it began with.
    """
    if folder.exists():
        return folder.read_config().precision.dtype
    return device.fast_format()


def build_trainer(
    config: Config,
    objectives: dict[str, Objective],
    folder: RunFolder,
    display: RunDisplay,
) -> Trainer:
    """Data, model and trainer of a run, at its newest checkpoint; writes nothing.

    Args:
        config: The run's configuration.
        objectives: What it trains.
        folder: Its folder; with a run in it, that run's tokenizer and state are taken.
        display: Shows the progress of what takes long.

    Raises:
        InputError: The user's input does not fit.
    """
    resumed = folder.tokenizer if folder.exists() else None
    data = load_run_data(config, objectives, resumed, display)
    parts, vocab_size = parts_of(objectives), data.tokenizer.vocab_size
    model = build_model(config, parts, vocab_size, data.dimension)
    start_tables(model, config, data.word_embeddings)
    codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
    return Trainer(config, objectives, codec, data, folder, display)

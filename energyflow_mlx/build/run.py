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
    folder.check(config)
    device.select(config.trainer.backend)
    jit_headers.prepare()
    if config.trainer.memory_limit_gb:
        mx.set_memory_limit(int(config.trainer.memory_limit_gb * 2**30))
    with RunDisplay(log_every=config.trainer.log_every, title=config.name) as display:
        summary = folder.read_summary()
        if summary.get("status") in ("finished", "stopped early"):
            display.message(f"{folder.path} is {summary['status']}; nothing to do")
            show_result(display, summary)
            return summary
        resumed = folder.tokenizer if folder.exists() else None
        data = load_run_data(config, objectives, resumed, display)
        parts, vocab_size = parts_of(objectives), data.tokenizer.vocab_size
        model = build_model(config, parts, vocab_size, data.dimension)
        start_tables(model, config, data.word_embeddings)
        codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
        if not folder.exists():
            data.tokenizer.save(folder.tokenizer)
            folder.begin(config)
        trainer = Trainer(config, objectives, codec, data, folder, display)
        return train(trainer, overrides or [])

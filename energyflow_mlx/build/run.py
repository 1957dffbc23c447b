"""One run from its configuration to its summary: the trainer's orchestrator."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, parts_of, start_tables
from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.evaluation.held_out import decoding_metrics
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import count_parameters
from energyflow_mlx.runs.folder import RunFolder, differences, flatten
from energyflow_mlx.runtime import blas, device
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.loop import Trainer


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
    folder.check(config)
    device.select(config.trainer.backend)
    if config.trainer.memory_limit_gb:
        mx.set_memory_limit(int(config.trainer.memory_limit_gb * 2**30))
    with RunDisplay(log_every=config.trainer.log_every, title=config.name) as display:
        summary = folder.read_summary()
        if summary.get("status") in ("finished", "stopped early"):
            display.message(f"{folder.path} is {summary['status']}; nothing to do")
            _show_result(display, summary)
            return summary
        resumed = folder.tokenizer if folder.exists() else None
        data = load_run_data(config, resumed, display)
        codec = _codec(config, data)
        if not folder.exists():
            data.tokenizer.save(folder.tokenizer)
            folder.begin(config)
        trainer = Trainer(config, codec, data, folder, display)
        display.header(_header(config, data, trainer))
        summary = trainer.run() | {"overrides": overrides or []}
        summary["parameters"] = count_parameters(codec.model)
        summary["backend"] = device.describe().backend
        summary["final"] = _final_metrics(config, codec, data, trainer)
        folder.write_summary(summary)
        _show_result(display, summary)
        return summary


def _codec(config: Config, data: RunData) -> SentenceCodec:
    model = build_model(
        config, parts_of(config), data.tokenizer.vocab_size, data.dimension
    )
    start_tables(model, config, data.word_embeddings)
    return SentenceCodec(model, data.tokenizer, config, data.dimension)


def _final_metrics(
    config: Config, codec: SentenceCodec, data: RunData, trainer: Trainer
) -> dict[str, float]:
    """Metrics on all held-out sentences, and greedy decoding of a sample."""
    trainer.restore_best()
    metrics = trainer.measure(0)
    count = min(config.trainer.decode_samples, len(data.held_out.texts))
    if config.trainer.ratio < 1 and count:
        codec.model.eval()
        chosen = np.linspace(0, len(data.held_out.texts) - 1, count).astype(int)
        truth = [data.held_out.texts[i] for i in chosen]
        texts = codec.decode(data.held_out.targets[chosen])
        metrics |= decoding_metrics(texts, truth)
        if config.lattice is not None:
            own = codec.decode(codec.encode(truth))
            through = decoding_metrics(own, truth)
            metrics |= {f"{k}_through_lattice": v for k, v in through.items()}
    return metrics


def _header(config: Config, data: RunData, trainer: Trainer) -> dict[str, str]:
    """What a reader wants to know before a run: machine, model, data, changes."""
    info, library = device.describe(), blas.info()
    counts = count_parameters(trainer.codec.model)
    changed = differences(Config(), config)
    changed.pop("run.dir", None)
    parts = ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in counts.items())
    return {
        "device": str(info),
        "BLAS": str(library),
        "precision": config.precision.dtype,
        "parameters": parts,
        "teacher": f"{data.teacher}, {data.dimension} numbers",
        "data": (
            f"{data.source}: {len(data.train_ids)} training, "
            f"{len(data.held_out.ids)} held out, "
            f"{data.tokenizer.vocab_size} tokens in the vocabulary"
        ),
        "updates": f"{trainer.total}, {trainer.steps_per_epoch} an epoch",
        "run folder": str(trainer.folder.path),
        "changed": ", ".join(
            f"{key}={flatten(config.to_json()).get(key)}" for key in changed
        )
        or "nothing",
    }


def _show_result(display: RunDisplay, summary: dict[str, Any]) -> None:
    rows = [[name, value] for name, value in summary["final"].items()]
    rows.append(["updates", summary["steps"]])
    rows.append(["training seconds", summary["seconds"]])
    display.table("Held-out sentences", ["metric", "value"], rows)

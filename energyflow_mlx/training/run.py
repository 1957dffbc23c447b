"""One run from its header to its summary."""

from typing import Any

from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.evaluation.generation import note_on_bleu
from energyflow_mlx.evaluation.held_out import final_metrics
from energyflow_mlx.model import count_parameters
from energyflow_mlx.runs.folder import differences, flatten
from energyflow_mlx.runtime import blas, device, native
from energyflow_mlx.training.loop import Trainer


def train(trainer: Trainer, overrides: list[str]) -> dict[str, Any]:
    """Train to the end, measure the best weights, write the summary.

    Args:
        trainer: Everything the run needs.
        overrides: What the user changed, for summary and tables.

    Returns:
        The summary, as written to ``summary.json``.
    """
    display, codec = trainer.display, trainer.codec
    display.header(_header(trainer))
    summary = trainer.run() | {"overrides": overrides}
    summary["parameters"] = count_parameters(codec.model)
    summary["backend"] = device.describe().backend
    summary["final"] = trainer.group.of_first(lambda: _final(trainer))
    trainer.folder.write_summary(summary)
    show_result(display, summary)
    return summary


def _final(trainer: Trainer) -> dict[str, float]:
    """Metrics of the best weights on every held-out sentence."""
    trainer.restore_best()
    trainer.codec.model.eval()
    return final_metrics(
        trainer.codec,
        list(trainer.objectives.values()),
        trainer.data.held_out,
        samples=trainer.config.trainer.decode_samples,
        embed=trainer.data.embed,
    )


def show_result(display: RunDisplay, summary: dict[str, Any]) -> None:
    """Show the table of a finished run."""
    rows = [[name, value] for name, value in summary["final"].items()]
    rows += note_on_bleu(summary["final"])
    rows.append(["updates", summary["steps"]])
    rows.append(["training seconds", summary["seconds"]])
    best = summary["best"]["step"]
    display.table(f"Held-out sentences, update {best}", ["metric", "value"], rows)


def _header(trainer: Trainer) -> dict[str, str]:
    """What a reader wants to know before a run: machine, model, data, changes."""
    config, data = trainer.config, trainer.data
    counts = count_parameters(trainer.codec.model)
    parts = ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in counts.items())
    return {
        "device": f"{device.describe()}{trainer.group}",
        "BLAS": str(blas.info()),
        "operations": _operations(),
        "precision": _precision(config),
        "parameters": parts,
        "teacher": f"{data.teacher}, {data.dimension} numbers",
        "data": (
            f"{data.source}: {len(data.train_ids)} training, "
            f"{len(data.held_out.ids)} held out, "
            f"{data.tokenizer.vocab_size} tokens in the vocabulary"
        ),
        "updates": _updates(trainer),
        "run folder": str(trainer.folder.path),
        "changed": _changes(config) or "nothing",
    }


def _updates(trainer: Trainer) -> str:
    """How many updates, and of how many sentences where there are not enough."""
    text = f"{trainer.total}, {trainer.steps_per_epoch} an epoch"
    asked, has = trainer.config.trainer.micro_batch, trainer.feed.micro_batch
    few = f"; batches of {has}, as there are no {asked} sentences for each"
    return text if has == asked else text + few


def _precision(config: Config) -> str:
    """The number format, and whether it is the one that the device does well."""
    chosen, fast = config.precision.dtype, device.fast_format()
    return chosen if chosen == fast else f"{chosen}; {fast} is fast here"


def _operations() -> str:
    """Which forms of the package's own operations run."""
    here = device.describe().backend
    return str(native.info()) if here == "cpu" else f"{here} kernels"


def _changes(config: Config) -> str:
    """Settings that are not the defaults."""
    flat = flatten(config.to_json())
    changed = [key for key in differences(Config(), config) if key != "run.dir"]
    return ", ".join(f"{key}={flat[key]}" for key in changed if key in flat)

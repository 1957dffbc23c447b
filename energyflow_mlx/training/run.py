"""One run from its header to its summary."""

from typing import Any

from energyflow_mlx.config import Config, chosen_objectives
from energyflow_mlx.evaluation.held_out import final_metrics
from energyflow_mlx.model import count_parameters
from energyflow_mlx.runs.folder import differences, flatten
from energyflow_mlx.runs.room import says_what_stays
from energyflow_mlx.runtime import blas, device, native
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.reporting import show_result


def train(trainer: Trainer, overrides: list[str], command: str) -> dict[str, Any]:
    """Train to the end, measure the best weights, write the summary.

    Args:
        trainer: Everything the run needs.
        overrides: What the user changed, for summary and tables.
        command: What goes on with the run, for one that is interrupted; may be empty.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        DiskError: The system refuses a file of the run; says from where it goes on.
    """
    trainer.display.header(_header(trainer))
    with says_what_stays(trainer.folder):
        return _train(trainer, overrides, command)


def _train(trainer: Trainer, overrides: list[str], command: str) -> dict[str, Any]:
    display, codec = trainer.display, trainer.codec
    try:
        summary = trainer.run() | {"overrides": overrides}
    except KeyboardInterrupt:
        saved = max(trainer.folder.steps(), default=0)
        display.message(
            f"interrupted at update {trainer.progress.step}; the same command "
            f"continues from update {saved}" + (f": {command}" if command else "")
        )
        raise
    summary["parameters"] = count_parameters(codec.model)
    summary["traces"] = dict(trainer.stepper.traces)
    if edits := trainer.config.data.edits.count:
        summary["edited_sentences"] = edits
    summary["backend"] = device.describe().backend
    with display.doing("final figures"):
        summary |= trainer.group.of_first(lambda: _final(trainer))
    display.close()
    # The result first: it does not need the disk.
    show_result(display, trainer.folder, summary, trainer.objectives.values())
    trainer.folder.write_summary(summary)
    return summary


def _final(trainer: Trainer) -> dict[str, Any]:
    """Metrics of the best weights on every held-out sentence, and their update."""
    step = trainer.restore_best()
    trainer.codec.model.eval()
    found = final_metrics(
        trainer.codec,
        list(trainer.objectives.values()),
        trainer.data.held_out,
        samples=trainer.config.trainer.decode_samples,
        embed=trainer.data.embed,
    )
    return {"final": found | trainer.validation.sts(), "final_step": step}


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
        "learning rate": learning_rates(config),
        **({"starts from": str(trainer.start)} if trainer.start else {}),
        "run folder": str(trainer.folder.path),
        "changed": _changes(config) or "nothing",
    }


def learning_rates(config: Config) -> str:
    """The common peak, and which objectives it does not move."""
    common = config.optimizer.lr
    chosen = chosen_objectives(config.objectives)
    own = [f"{n} {s.lr:g}" for n, s in chosen.items() if s.lr != common]
    said = f"{common:g}" if len(own) < len(chosen) else "none in common"
    return said + (f"; not moved by optimizer.lr: {', '.join(own)}" if own else "")


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

"""What a run says in words: a validation, its result, what to type next."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.evaluation.generation import note_on_bleu
from energyflow_mlx.runs.folder import OWN_PAIRS, RunFolder
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.samples import PLAIN, Record
from energyflow_mlx.training.state import Progress

_AT_VALIDATION = 2  # followed sentences on the terminal
_AT_END = 3
# Figures of a summary that not every run has.
_SKIPS = {
    "skipped": "updates skipped",
    "loss_scale": "loss scale",
    "rollbacks": "rollbacks",
}


def show_validation(
    display: RunDisplay,
    metrics: Mapping[str, float],
    progress: Progress,
    written: Sequence[Record],
) -> None:
    """Show figures, whether they are the best, and a few followed sentences.

    Args:
        display: Where people see the run.
        metrics: What was measured.
        progress: Has taken note of it.
        written: The followed sentences as the model writes them now.
    """
    is_best = progress.best_step == progress.step
    best = "the best so far" if is_best else f"best at update {progress.best_step}"
    display.message(f"validation at update {progress.step}: {shown(metrics)}  ({best})")
    display.lines(sample_lines(written, _AT_VALIDATION))


def shown(values: Mapping[str, float]) -> str:
    """Figures in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def sample_lines(records: Sequence[Record], most: int) -> list[tuple[str, str]]:
    """A few sentences for the terminal: label and text of each line.

    Args:
        records: Those of one update, path after path.
        most: Sentences that are shown.
    """
    paths = list(dict.fromkeys(record["path"] for record in records))
    numbers = list(dict.fromkeys(record["sentence"] for record in records))
    found = {(record["path"], record["sentence"]): record for record in records}
    lines: list[tuple[str, str]] = []
    for number in numbers[:most]:
        own = [found[path, number] for path in paths if (path, number) in found]
        lines.append(("held out", own[0]["original"]))
        for record in own:
            path = record["path"]
            label = "decoded" if path == PLAIN else path.replace("_", " ")
            cosine = record["cosine"]
            near = "" if cosine is None else f"  (cosine {cosine:.2f})"
            lines.append((label, f"{record['decoded']}{near}"))
    return lines


def show_result(
    display: RunDisplay,
    folder: RunFolder,
    summary: Mapping[str, Any],
    objectives: Iterable[Objective],
) -> None:
    """Show the table of a finished run, its best sentences, and what to type next.

    Args:
        display: Where people see the run.
        folder: The run's folder, with its configuration.
        summary: As ``summary.json`` has it.
        objectives: What the run trained.
    """
    rows = [[name, value] for name, value in summary["final"].items()]
    rows += note_on_bleu(summary["final"])
    rows.append(["updates", summary["steps"]])
    for name, said in _SKIPS.items():
        rows += [[said, summary[name]]] if name in summary else []
    rows.append(["training seconds", summary["seconds"]])
    if "traces" in summary:  # no earlier version counted them
        rows.append(["compiled updates", sum(summary["traces"].values())])
    rows += _own_pairs(summary)
    (metric, value), best = next(iter(summary["best"].items())), summary["best"]["step"]
    display.table(measured(summary), ["metric", "value"], rows)
    display.message(f"best at update {best}: {metric} {value:.4f}")
    written = [record for record in folder.read_samples() if record["step"] == best]
    display.lines(sample_lines(written, _AT_END))
    parts = {part.partition(".")[0] for o in objectives for part in o.parts}
    display.message("Next:")
    for command in next_commands(folder.read_config(), folder.path, parts):
        display.command(command)


def _own_pairs(summary: Mapping[str, Any]) -> list[list[Any]]:
    """What the run's own pairs were and cost, where it made any."""
    if OWN_PAIRS not in summary:
        return []
    made = summary[OWN_PAIRS]
    share = 100.0 * made["seconds"] / max(summary["seconds"], 1e-9)
    return [
        ["own pairs", f"{made['kept']} of {made['sampled']} sampled sentences"],
        ["updates of own pairs", made["updates"]],
        ["seconds making them", f"{made['seconds']:.1f} ({share:.0f} % of training)"],
    ]


def measured(summary: Mapping[str, Any]) -> str:
    """What the final figures measure: the best weights, which may be the last."""
    (metric, _), (_, best) = summary["best"].items()
    last = summary["steps"]
    if (taken := summary.get("final_step", best)) != best:
        return f"Held-out sentences, update {taken}: the best, {best}, is damaged"
    if best == last:
        return f"Held-out sentences, update {last}: the last, and the best by {metric}"
    return f"Held-out sentences, update {best} of {last}: the best by {metric}"


def next_commands(config: Config, run: Path, parts: set[str]) -> list[list[str]]:
    """Commands for what a run can do, as words that are quoted for a shell.

    Args:
        config: The run's configuration.
        run: Its folder.
        parts: Parts of its model.
    """
    commands, vectors = [], config.teacher.val_vectors
    if parts - {"decoder", "shared"}:
        needs_vectors = "encoder" not in parts and config.teacher.kind == "precomputed"
        if needs_vectors:
            source = vectors
        else:
            source = _text_file(config)
            if source is None:
                source = "sentences.txt"
                sentence = "'A dog runs on the beach.'"
                commands.append(["echo", sentence, ">", source])
        if source is not None:
            vectors = "vectors.npy"
            commands.append(_command("encode", run, input=source, output=vectors))
    if "decoder" in parts and vectors is not None:
        commands.append(_command("decode", run, input=vectors, output="decoded.txt"))
    function = config.teacher.function  # a name in a run's folder is never imported
    typed = {"function": function} if function else {}
    return [*commands, _command("evaluate", run, **typed), _command("plot", run)]


def _text_file(config: Config) -> str | None:
    """A text file of the run with a sentence a line, held-out ones first."""
    files = [*config.data.val, *config.data.train]
    return next((f for f in files if f.endswith((".txt", ".txt.gz"))), None)


def _command(name: str, run: Path, **keys: str) -> list[str]:
    words = [f"{key}={value}" for key, value in {"run": str(run), **keys}.items()]
    return ["energyflow", name, *map(shlex.quote, words)]

"""Pictures of a run: ``python -m energyflow_mlx.plot run=PATH``.

Curves for every run; for one with a lattice also its surfaces, arrivals and histograms
and an interactive page of the flows' paths, all for a few sentences.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.errors import InputError, require_package

if TYPE_CHECKING:
    import numpy as np

    from energyflow_mlx.config import Config
    from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord
    from energyflow_mlx.runs.folder import RunFolder
    from energyflow_mlx.training.objectives import Objective

_DEFAULT_SENTENCES = 4
PAGE = "flows.html"


@dataclass
class PlotArgs:
    """Draw the curves of a run and, where it has a lattice, the flows of sentences."""

    run: str = field(default="???", metadata={"help": "run folder"})
    output: str | None = field(
        default=None, metadata={"help": "folder of the pictures; default RUN/plots"}
    )
    sentences: Any = field(
        default=None,
        metadata={"help": '\'["...","..."]\'; by default held-out built-in captions'},
    )


def plot(args: PlotArgs) -> None:
    """Draw everything, then say what the flows do and which files were written."""
    require_package("matplotlib", "plot")
    from energyflow_mlx.build.objectives import build_objectives
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.plots import plot_metrics, write_page, write_pictures
    from energyflow_mlx.runs.folder import RunFolder
    from energyflow_mlx.runs.metrics import read_metrics

    run = RunFolder(Path(args.run))
    config = run.read_config()
    with_flows = [o for o in build_objectives(config).values() if o.shows_flows]
    sentences = check_sentences(args.sentences, has_flows=bool(with_flows))
    folder = Path(args.output) if args.output else run.plots
    if folder.exists() and not folder.is_dir():
        raise InputError(f"[plot] output must be a folder, got the file {folder}.")
    validated = read_metrics(run.metrics)  # refuse a bad log before any work
    traces = [_trace(run, o, sentences or choose_captions(config)) for o in with_flows]
    files = plot_metrics(run.metrics, folder)
    with RunDisplay() as display:
        for cube, records in traces:
            files += write_pictures(cube, records, folder)
            name = run.path.resolve().name
            files.append(write_page(folder / PAGE, cube, records, name))
            table = _statistics(cube, records, validated)
            display.table(f"Flows of {run.path}", *table)
        display.table(
            "Files", ["file", "bytes"], [[str(f), f.stat().st_size] for f in files]
        )


def _trace(
    run: "RunFolder", objective: "Objective", sentences: list[str]
) -> tuple["Cube", list["FlowRecord"]]:
    """Sentences through the run's lattice in the way that an objective sends them."""
    from energyflow_mlx.build.codec import load
    from energyflow_mlx.evaluation.tracing import cube_of
    from energyflow_mlx.teacher import teacher_from

    codec = load(run.path)

    def embed(texts: list[str]) -> "np.ndarray":
        return teacher_from(codec.config.teacher).encode(texts, batch_size=len(texts))

    records = objective.trace(codec, sentences, embed)
    return cube_of(codec.model.lattice.config), records


def check_sentences(given: Any, *, has_flows: bool) -> list[str]:
    """The user's sentences, or an empty list where none are given.

    Raises:
        InputError: They are not text, are empty, or the run has no lattice.
    """
    if given is None:
        return []
    if not has_flows:
        raise InputError("[plot] sentences need a run with a lattice, got one without.")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise InputError(f'[plot] sentences must be ["...","..."], got {given!r}.')
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"[plot] every sentence must be a text, got {text!r}.")
    return texts


def choose_captions(config: "Config") -> list[str]:
    """A few built-in captions that the run has not trained on."""
    from energyflow_mlx.data.captions.generate import generate_captions
    from energyflow_mlx.data.dataset import SentenceSet, split

    data = config.data
    if data.train or data.val:
        return generate_captions(_DEFAULT_SENTENCES, config.seed + 1)
    captions = SentenceSet(generate_captions(data.captions, config.seed))
    held_out = split(captions, data.val_fraction, config.seed)[1]
    return (held_out.texts or [])[:_DEFAULT_SENTENCES]


def _statistics(
    cube: "Cube", records: list["FlowRecord"], log: list[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: these sentences, and the run's last validation."""
    from energyflow_mlx.evaluation.flow_record import describe, mean_statistics

    count = len(records)
    head = "1 sentence" if count == 1 else f"mean of {count} sentences"
    columns = {head: describe(mean_statistics(records), is_dual=cube.is_dual)}
    for row in reversed(log):
        if row.get("kind") == "validation" and "flow_reached" in row:
            flows = {k.removeprefix("flow_"): v for k, v in row.items()}
            columns["last validation"] = describe(flows, is_dual=cube.is_dual)
            break
    names = next(iter(columns.values()))
    rows = [[n, *(column.get(n, "-") for column in columns.values())] for n in names]
    return ["flows", *columns], rows


def main() -> None:
    """Command line; see the module."""
    cli.main(PlotArgs, plot)


if __name__ == "__main__":
    main()

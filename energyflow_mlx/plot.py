"""Pictures of a run: ``python -m energyflow_mlx.plot run=PATH``.

Curves for every run and a page with all that its folder says; for one with a lattice
also its surfaces, arrivals and histograms and an interactive page of the flows' paths,
all for a few sentences. Several runs, or a sweep, are compared.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import as_paths
from energyflow_mlx.data.files import require_output_folder
from energyflow_mlx.errors import InputError, require_package

if TYPE_CHECKING:
    import numpy as np

    from energyflow_mlx.config import Config
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord
    from energyflow_mlx.runs.folder import RunFolder
    from energyflow_mlx.training.objectives import Objective

_DEFAULT_SENTENCES = 4
_SEARCHED = 2000  # captions that a pair differing in one word is looked for in
PAGE = "flows.html"
CONFIG = "config.json"


@dataclass
class PlotArgs:
    """Draw a run and, where it has a lattice, sentences' flows; or compare several."""

    run: Any = field(
        default="???", metadata={"help": "run folder; several as [A,B], or a sweep"}
    )
    output: str | None = field(
        default=None,
        metadata={"help": "folder of the pictures; default RUN/plots for one run"},
    )
    sentences: Any = field(
        default=None,
        metadata={"help": '\'["...","..."]\'; by default held-out built-in captions'},
    )
    function: str | None = field(
        default=None,
        metadata={"help": "package.module:name, if the teacher is a function"},
    )


def plot(args: PlotArgs) -> None:
    """Draw a run, or several beside each other.

    Raises:
        InputError: A run is missing or damaged, or an argument does not fit.
    """
    paths = [Path(path) for path in as_paths(args.run, "run")]
    runs = [run for path in paths for run in _runs_of(path)]
    if args.output:
        require_output_folder(args.output)
    if not runs:
        raise InputError("[plot] run must name at least one run folder, got none.")
    if len(runs) == 1:
        _plot_run(args, runs[0])
    else:
        _compare(args, runs)


def _runs_of(path: Path) -> list[Path]:
    """Run folders that a path names: itself, or the jobs of a sweep, 2 before 10."""
    jobs = [file.parent for file in path.glob(f"*/{CONFIG}")]
    if (path / CONFIG).is_file() or not jobs:
        return [path]
    return sorted(jobs, key=lambda job: (len(job.name), job.name))


def _compare(args: PlotArgs, paths: list[Path]) -> None:
    """Draw several runs beside each other, then say which files were written."""
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.plots import read_facts, write_comparison
    from energyflow_mlx.runs.folder import RunFolder

    if args.output is None:
        raise InputError("[plot] output=FOLDER must be given to compare runs.")
    if args.sentences is not None:
        raise InputError("[plot] sentences need one run, got several.")
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"[plot] run must name every run once, got {twice[0]} twice.")
    short = len({path.name for path in paths}) == len(paths)
    runs = {
        path.name if short else str(path): read_facts(RunFolder(path)) for path in paths
    }
    files = write_comparison(Path(args.output), runs)
    with RunDisplay() as display:
        _show_files(display, files)


def _show_files(display: "RunDisplay", files: list[Path]) -> None:
    rows = [[str(file), file.stat().st_size] for file in files]
    display.table("Files", ["file", "bytes"], rows)


def _plot_run(args: PlotArgs, path: Path) -> None:
    """Draw everything, then say what the flows do and which files were written."""
    require_package("matplotlib", "plot")
    from energyflow_mlx.build.objectives import build_objectives
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.plots import (
        Flows,
        plot_metrics,
        read_facts,
        write_page,
        write_pictures,
        write_report,
    )
    from energyflow_mlx.runs.folder import RunFolder

    run = RunFolder(path)
    config = run.read_config()
    with_flows = [o for o in build_objectives(config).values() if o.shows_flows]
    # One lattice, one set of pictures: of sentences rather than of their vectors.
    with_flows = sorted(with_flows, key=lambda o: o.reads_text)[-1:]
    sentences = check_sentences(args.sentences, has_flows=bool(with_flows))
    folder = Path(args.output) if args.output else run.plots
    facts = read_facts(run)  # refuses what is missing before any work
    shown = sentences or (choose_captions(config) if with_flows else [])
    traces = [_trace(run, o, shown, args.function) for o in with_flows]
    files = plot_metrics(facts.curves, folder)
    files.append(write_report(folder, facts, [Flows(*trace) for trace in traces]))
    with RunDisplay() as display:
        for cube, records in traces:
            files += write_pictures(cube, records, folder)
            name = run.path.resolve().name
            files.append(write_page(folder / PAGE, cube, records, name))
            table = _statistics(cube, records, facts.records)
            display.table(f"Flows of {run.path}", *table)
        _show_files(display, files)


def _trace(
    run: "RunFolder", objective: "Objective", sentences: list[str], name: str | None
) -> tuple["Cube", list["FlowRecord"]]:
    """Sentences through the run's lattice in the way that an objective sends them.

    ``name`` is what the user calls the teacher's function, where it is one.
    """
    from energyflow_mlx.build.codec import load
    from energyflow_mlx.evaluation.tracing import cube_of
    from energyflow_mlx.teacher import import_function, teacher_from

    codec = load(run.path)

    def embed(texts: list[str]) -> "np.ndarray":
        teacher = teacher_from(codec.config.teacher, import_function(name))
        return teacher.encode(texts, batch_size=len(texts))

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
    """A few built-in captions that the run has not trained on.

    The first two differ in one word, where any do.
    """
    from energyflow_mlx.data.captions.generate import generate_captions
    from energyflow_mlx.data.dataset import SentenceSet, split

    data = config.data
    if data.train or data.val:
        return _with_a_near_one(generate_captions(_SEARCHED, config.seed + 1))
    captions = SentenceSet(generate_captions(data.captions, config.seed))
    held_out = split(captions, data.val_fraction, config.seed)[1]
    return _with_a_near_one((held_out.texts or [])[:_SEARCHED])


def _with_a_near_one(captions: list[str]) -> list[str]:
    """The first captions, after the first pair of them that differs in one word."""
    slots: dict[tuple[str, ...], str] = {}
    for caption in captions:
        words = caption.split()
        for place in range(len(words)):
            key = (*words[:place], "", *words[place + 1 :])
            if key in slots:
                pair = [slots[key], caption]
                others = [other for other in captions if other not in pair]
                return [*pair, *others][:_DEFAULT_SENTENCES]
            slots[key] = caption
    return captions[:_DEFAULT_SENTENCES]


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

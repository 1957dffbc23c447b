"""Measure a run, or a teacher: ``python -m energyflow_mlx.evaluate run=PATH sts=[F]``.

Prints a table, writes ``evaluation.json`` into the run folder and ends with the same
figures as one JSON line on standard output. The file also holds what the report draws:
confused sentences, and the pairs of the STS files.
"""

import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import (
    as_paths,
    bounds,
    require_bounds,
    require_choice,
)
from energyflow_mlx.config.own_pairs import EMBEDDERS
from energyflow_mlx.errors import DiskError, InputError
from energyflow_mlx.runtime.json_text import json_text

if TYPE_CHECKING:
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.evaluation.held_out import HeldOut
    from energyflow_mlx.inference import SentenceCodec

logger = logging.getLogger(__name__)

Encode = Callable[[Sequence[str]], np.ndarray]
Figures = dict[str, Any]

# Settings that say how corrections are measured.
_OF_CORRECTIONS = ("samples", "beams", "edits", "embedder", "sources", "vectors")
_MOST_FAILURES = 50  # decoded sentences that are kept, the worst first


@dataclass
class EvaluateData:
    """Sentences to measure on."""

    val: Any = field(
        default=None, metadata={"help": "held-out sentences: FILE or [FILES]"}
    )


@dataclass
class EvaluateArgs:
    """Measure a trained run on held-out sentences and STS files, or a teacher alone."""

    run: str | None = field(default=None, metadata={"help": "run folder or export"})
    teacher: str | None = field(
        default=None, metadata={"help": "teacher; by default the run's own"}
    )
    function: str | None = field(
        default=None,
        metadata={"help": "package.module:name, if the teacher is a function"},
    )
    data: EvaluateData = field(default_factory=EvaluateData)
    sts: Any = field(
        default=None,
        metadata={"help": "files of score<TAB>sentence<TAB>sentence, [A,B]"},
    )
    groups: int = field(
        default=0,
        metadata={"help": "so many sentences in a row are of one kind; 0 = none"}
        | bounds(0),
    )
    decode_samples: int = field(
        default=0, metadata={"help": "decode this many sentences; 0 = all"} | bounds(0)
    )
    corrections: Any = field(
        default=None,
        metadata={"help": "measure after so many corrections, such as [0,1,4,8]"},
    )
    samples: int = field(
        default=1, metadata={"help": "with corrections: tries a round"} | bounds(1)
    )
    beams: int = field(
        default=1,
        metadata={"help": "with corrections: width of beam search"} | bounds(1),
    )
    edits: int = field(
        default=0,
        metadata={"help": "with corrections: rounds of edits after the last"}
        | bounds(0),
    )
    embedder: str = field(
        default="teacher", metadata={"help": "with corrections: teacher or student"}
    )
    sources: Any = field(
        default=None,
        metadata={"help": "with corrections: where each is from, FILE or [FILES]"},
    )
    vectors: str = field(
        default="teacher", metadata={"help": "with corrections: whose are decoded"}
    )
    batch_size: int = field(
        default=0,
        metadata={"help": "most sentences a forward pass; 0 = by device"} | bounds(0),
    )


def similarity_of(
    paths: Sequence[str],
    encode: Encode,
    display: "RunDisplay",
    sizes: Collection[int] = (),
) -> tuple[Figures, Figures]:
    """Spearman x 100 of cosine against gold score, and both of every pair, by stem.

    Args:
        paths: STS files.
        encode: Gives vectors of sentences, ``[N, E]``.
        display: Shows how far it is.
        sizes: Sizes of shortened vectors, measured too, as ``STEM_SIZE``.
    """
    from energyflow_mlx.evaluation.similarity import cosine_rows, read_sts, sts_scores

    found: Figures = {}
    points: Figures = {}
    with display.task("STS files") as report:
        for done, path in enumerate(paths, 1):
            pairs, stem = read_sts(Path(path)), Path(path).stem
            vectors = encode(pairs.first), encode(pairs.second)
            found |= sts_scores(stem, *vectors, pairs.scores, sizes)
            points[stem] = {
                "score": pairs.scores.tolist(),
                "cosine": cosine_rows(*vectors).tolist(),
            }
            report(done, len(paths))
    return found, points


def _with_mean(found: Figures, points: Figures) -> Figures:
    """Spearman of each set, and their mean where there are several."""
    if len(points) < 2:
        return {"spearman": found}
    mean = float(np.mean([found[stem] for stem in points]))
    return {"spearman": found, "spearman_mean": mean}


def evaluate_run(args: EvaluateArgs, folder: Path, display: "RunDisplay") -> Figures:
    """Metrics of a trained run, on its own held-out sentences or on ``data.val``.

    With STS files alone only these are measured. Under ``"details"`` stands what the
    report draws.
    """
    from energyflow_mlx.build.codec import load
    from energyflow_mlx.build.objectives import build_objectives

    codec = load(folder)
    if args.teacher:
        if codec.config.teacher.kind == "callable":
            raise InputError(
                "[evaluate] teacher must be unset, because the run's teacher is a "
                f"function, got {args.teacher}."
            )
        codec.config.teacher.name = args.teacher
    paths, sts = as_paths(args.data.val, "data.val"), as_paths(args.sts, "sts")
    result: Figures = {}
    details: Figures = {}
    if paths or not sts or args.corrections is not None:
        result, details = _held_out_metrics(
            args, codec, [Path(p) for p in paths], display
        )
    if sts:
        encode = partial(codec.encode, batch_size=args.batch_size)
        objectives = build_objectives(codec.config).values()
        sizes = {size for objective in objectives for size in objective.sizes}
        found, details["sts"] = similarity_of(sts, encode, display, sizes)
        result |= _with_mean(found, details["sts"])
    return result | {"details": details}


def _held_out_metrics(
    args: EvaluateArgs,
    codec: "SentenceCodec",
    paths: list[Path],
    display: "RunDisplay",
) -> tuple[Figures, Figures]:
    """The table that training ends with, and the sentences that were confused."""
    from energyflow_mlx.build.data import load_held_out
    from energyflow_mlx.build.objectives import build_objectives
    from energyflow_mlx.evaluation.corrections import numbers_of
    from energyflow_mlx.evaluation.held_out import confused, final_metrics, reach_of
    from energyflow_mlx.teacher import import_function

    config, rounds = codec.config, numbers_of(args.corrections)
    if rounds:
        codec.require("evaluate corrections", "decode")
    objectives = build_objectives(config)
    function = import_function(args.function)
    with display.task("held-out sentences and their vectors"):
        held_out, embed = load_held_out(
            config, objectives, codec.tokenizer, paths, function
        )
    width = codec.dimension * (2 if config.data.pairs else 1)
    if held_out.targets.shape[1] != width:
        raise InputError(
            f"[evaluate] data.val must have vectors of {width} numbers as the run's, "
            f"got {held_out.targets.shape[1]}."
        )
    codec.notice(held_out.texts)
    codec.teach(embed)
    with display.task("measuring and decoding"):
        found: Figures = final_metrics(
            codec,
            list(objectives.values()),
            held_out,
            samples=args.decode_samples or len(held_out.texts),
            embed=embed,
        )
    if args.groups:
        found |= _recall_in_groups(args, codec, list(held_out.texts))
    if "decoder" in codec.model and held_out.texts:
        found |= reach_of(codec, held_out.texts)
    details: Figures = {}
    if rounds:
        with display.task("correcting") as report:
            after, details["failures"] = _corrected(
                args, codec, held_out, rounds, report
            )
            found |= after
    found["sentences"] = len(held_out.ids)
    with display.task("confused sentences"):
        return found, details | confused(codec, objectives.values(), held_out)


def _require_usual(args: EvaluateArgs, names: Sequence[str]) -> None:
    """Refuse settings that would do nothing, as there are no corrections."""
    usual = EvaluateArgs()
    for name in names:
        if (given := getattr(args, name)) != getattr(usual, name):
            raise InputError(
                f"[evaluate] {name} must be left out without corrections, got {given}."
            )


def _corrected(
    args: EvaluateArgs,
    codec: "SentenceCodec",
    held_out: "HeldOut",
    rounds: list[int],
    report: Callable[[int, int], None],
) -> tuple[Figures, Figures]:
    """What decoded sentences are worth after each number of corrections; the worst."""
    from energyflow_mlx.evaluation import corrections
    from energyflow_mlx.evaluation.held_out import written_after
    from energyflow_mlx.evaluation.lengths import by_label, by_length
    from energyflow_mlx.text.generation import Decoding

    if not held_out.texts:
        raise InputError("[evaluate] data.val must hold texts to be corrected.")
    decoding = Decoding(
        corrections=rounds[-1],
        samples=args.samples,
        beams=args.beams,
        edits=args.edits,
        embedder=args.embedder,
    )
    rows = held_out.spread_rows(args.decode_samples or len(held_out.texts))
    sample = held_out.subset(rows)
    require_choice(args.vectors, "vectors", EMBEDDERS)
    if args.vectors == "student":
        is_unit = codec.config.teacher.normalize
        own = codec.encode(sample.texts, normalize_embeddings=is_unit)
        sample = replace(sample, targets=own)
    groups = {"length": by_length(sample.texts)}
    if args.sources is not None:
        paths = as_paths(args.sources, "sources")
        labels = corrections.read_labels(paths, len(held_out.texts))
        groups["source"] = by_label([labels[row] for row in rows])
    found = written_after(codec, sample, decoding, rounds, report, args.batch_size)
    figures = corrections.correction_figures(found, sample.texts, groups)
    return figures, corrections.failures(found, sample.texts, _MOST_FAILURES)


def _recall_in_groups(
    args: EvaluateArgs, codec: "SentenceCodec", texts: list[str]
) -> dict[str, Any]:
    """How often a sentence finds another of its kind, such as captions of one image."""
    from energyflow_mlx.evaluation.retrieval import group_recall

    if args.groups < 2 or not texts or len(texts) % args.groups:
        raise InputError(
            f"[evaluate] groups must be at least 2 and divide the {len(texts)} "
            f"sentences, got {args.groups}."
        )
    kinds = np.arange(len(texts)) // args.groups
    vectors = codec.encode(texts, batch_size=args.batch_size)
    recall = group_recall(vectors, kinds)
    return {f"group_recall_at_{k}": share for k, share in recall.items()}


def evaluate_teacher(args: EvaluateArgs, name: str, display: "RunDisplay") -> Figures:
    """Spearman of the teacher itself."""
    from energyflow_mlx.config import TeacherConfig
    from energyflow_mlx.runtime import jit_headers
    from energyflow_mlx.teacher import import_function, teacher_from

    jit_headers.prepare()
    kind = "callable" if name == "callable" else "bert"
    settings = TeacherConfig(name=name, kind=kind, function=args.function)
    teacher = teacher_from(settings, import_function(args.function))
    sts = as_paths(args.sts, "sts")
    if not sts:
        raise InputError("[evaluate] sts=[FILES] must be given to measure a teacher.")

    def encode(texts: Sequence[str]) -> np.ndarray:
        return teacher.encode(texts, batch_size=args.batch_size)

    return _with_mean(*similarity_of(sts, encode, display))


def _store(folder: Path, result: Figures) -> None:
    """Keep the result in a run folder; an export is not added to."""
    from energyflow_mlx.inference.formats.folder import is_pretrained
    from energyflow_mlx.runs.folder import RunFolder

    if not folder.is_dir() or is_pretrained(folder):
        return
    try:
        RunFolder(folder).write_evaluation(result)
    except DiskError as error:
        error.add("the result above is not stored")
        raise


def evaluate(args: EvaluateArgs) -> None:
    """Measure, show, print one JSON line, and then store.

    Raises:
        InputError: An argument, the run or a file is wrong.
        DiskError: The result is shown, and could not be stored.
    """
    from energyflow_mlx.display import RunDisplay

    require_bounds(args, "evaluate")
    if args.corrections is None:
        _require_usual(args, _OF_CORRECTIONS)
    for key, given in (("data.val", args.data.val), ("sts", args.sts)):
        if given is not None and not as_paths(given, key):
            raise InputError(f"[evaluate] {key} must name a file, got none.")
    started = time.perf_counter()
    with RunDisplay() as display, display.task("evaluating"):
        if args.run is not None:
            result = evaluate_run(args, Path(args.run), display)
        elif args.teacher is not None:
            result = evaluate_teacher(args, args.teacher, display)
        else:
            raise InputError("[evaluate] run=PATH or teacher=NAME must be given.")
    details = result.pop("details", {})
    result["seconds"] = round(time.perf_counter() - started, 3)
    with RunDisplay() as display:
        _show(display, args.run or f"teacher {args.teacher}", result)
    sys.stdout.write(json_text(result) + "\n")
    sys.stdout.flush()
    if args.run is not None:
        _store(Path(args.run), result | {"details": details})


def _show(display: "RunDisplay", title: str, result: Figures) -> None:
    """The figures in a table; those after corrections in one of their own."""
    from energyflow_mlx.evaluation.corrections import (
        HEADS,
        PREFIX,
        SPEED,
        correction_rows,
    )
    from energyflow_mlx.evaluation.generation import note_on_bleu

    rows: list[list[Any]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            named = [[f"{name} {stem}", number] for stem, number in value.items()]
            rows += [] if name.startswith(PREFIX) else named
        else:
            rows.append([name, value])
    rows += note_on_bleu(result)
    display.table(title, ["metric", "value"], rows)
    if corrected := correction_rows(result):
        display.table("After corrections", [*HEADS, SPEED], corrected)


def main() -> None:
    """Command line; see the module."""
    cli.main(EvaluateArgs, evaluate)


if __name__ == "__main__":
    main()

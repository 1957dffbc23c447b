"""Measure a run, or a teacher: ``python -m energyflow_mlx.evaluate run=PATH sts=[F]``.

Prints a table, writes ``evaluation.json`` into the run folder and ends with the same
as one JSON line on standard output.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import as_paths
from energyflow_mlx.errors import InputError

if TYPE_CHECKING:
    from energyflow_mlx.inference import SentenceCodec

logger = logging.getLogger(__name__)

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass
class EvaluateData:
    """Sentences to measure on."""

    val: Any = field(
        default=None, metadata={"help": "held-out sentences: FILE or [FILES]"}
    )


@dataclass
class EvaluateArgs:
    """Measure a trained run on held-out sentences and STS files, or a teacher alone."""

    run: str | None = field(default=None, metadata={"help": "run folder"})
    weights: str | None = field(
        default=None,
        metadata={"help": "exported .safetensors; default: best checkpoint"},
    )
    teacher: str | None = field(
        default=None, metadata={"help": "teacher; by default the run's own"}
    )
    data: EvaluateData = field(default_factory=EvaluateData)
    sts: Any = field(
        default=None,
        metadata={"help": "files of score<TAB>sentence<TAB>sentence, [A,B]"},
    )
    groups: int = field(
        default=0,
        metadata={"help": "so many sentences in a row are of one kind; 0 = none"},
    )
    decode_samples: int = field(
        default=0, metadata={"help": "decode this many sentences; 0 = all"}
    )
    batch_size: int = field(
        default=0, metadata={"help": "most sentences a forward pass; 0 = by device"}
    )


def spearman_of(paths: Sequence[str], encode: Encode) -> dict[str, float]:
    """Spearman x 100 of cosine against gold score, by file stem."""
    from energyflow_mlx.evaluation.similarity import read_sts, sts_score

    found = {}
    for path in paths:
        pairs = read_sts(Path(path))
        first, second = encode(pairs.first), encode(pairs.second)
        found[Path(path).stem] = sts_score(first, second, pairs.scores)
    return found


def evaluate_run(args: EvaluateArgs, folder: Path) -> dict[str, Any]:
    """Metrics of a trained run, on its own held-out sentences or on ``data.val``.

    With STS files alone only these are measured.
    """
    from energyflow_mlx.build.codec import load

    codec = load(folder, args.weights)
    if args.teacher:
        codec.config.teacher.name = args.teacher
    paths, sts = as_paths(args.data.val, "data.val"), as_paths(args.sts, "sts")
    result: dict[str, Any] = {}
    if paths or not sts:
        result |= _held_out_metrics(args, codec, [Path(p) for p in paths])
    if sts:
        result["spearman"] = spearman_of(
            sts, partial(codec.encode, batch_size=args.batch_size)
        )
    return result


def _held_out_metrics(
    args: EvaluateArgs, codec: "SentenceCodec", paths: list[Path]
) -> dict[str, Any]:
    """The table that training ends with."""
    from energyflow_mlx.build.data import load_held_out
    from energyflow_mlx.build.objectives import build_objectives
    from energyflow_mlx.evaluation.held_out import final_metrics

    config = codec.config
    objectives = build_objectives(config)
    held_out, embed = load_held_out(config, objectives, codec.tokenizer, paths)
    found: dict[str, Any] = final_metrics(
        codec,
        list(objectives.values()),
        held_out,
        samples=args.decode_samples or len(held_out.texts),
        embed=embed,
    )
    if args.groups:
        found |= _recall_in_groups(args, codec, list(held_out.texts))
    return found | {"sentences": len(held_out.ids)}


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


def evaluate_teacher(args: EvaluateArgs, name: str) -> dict[str, Any]:
    """Spearman of the teacher itself."""
    from energyflow_mlx.config import TeacherConfig
    from energyflow_mlx.runtime import jit_headers
    from energyflow_mlx.teacher import teacher_from

    jit_headers.prepare()
    teacher = teacher_from(TeacherConfig(name=name))
    sts = as_paths(args.sts, "sts")
    if not sts:
        raise InputError("[evaluate] sts=[FILES] must be given to measure a teacher.")

    def encode(texts: Sequence[str]) -> np.ndarray:
        return teacher.encode(texts, batch_size=args.batch_size)

    return {"spearman": spearman_of(sts, encode)}


def evaluate(args: EvaluateArgs) -> None:
    """Measure, show, store, and print one JSON line."""
    from energyflow_mlx.display import RunDisplay
    from energyflow_mlx.evaluation.generation import note_on_bleu

    if args.batch_size < 0 or args.decode_samples < 0:
        raise InputError("[evaluate] batch_size and decode_samples must be >= 0.")
    started = time.perf_counter()
    if args.weights is not None and args.run is None:
        raise InputError("[evaluate] weights=FILE must come with run=PATH.")
    if args.run is not None:
        result = evaluate_run(args, Path(args.run))
    elif args.teacher is not None:
        result = evaluate_teacher(args, args.teacher)
    else:
        raise InputError("[evaluate] run=PATH or teacher=NAME must be given.")
    result["seconds"] = round(time.perf_counter() - started, 3)
    rows: list[list[Any]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            rows += [[f"{name} {stem}", number] for stem, number in value.items()]
        else:
            rows.append([name, value])
    rows += note_on_bleu(result)
    with RunDisplay() as display:
        title = args.run or f"teacher {args.teacher}"
        display.table(title, ["metric", "value"], rows)
    line = json.dumps(result, ensure_ascii=False)
    if args.run is not None:
        from energyflow_mlx.runs.folder import RunFolder
        from energyflow_mlx.runtime.atomic import write_text

        write_text(RunFolder(Path(args.run)).evaluation, line + "\n")
    sys.stdout.write(line + "\n")


def main() -> None:
    """Command line; see the module."""
    cli.main(EvaluateArgs, evaluate)


if __name__ == "__main__":
    main()

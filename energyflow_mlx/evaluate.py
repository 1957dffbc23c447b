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
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import as_paths
from energyflow_mlx.errors import InputError

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
    teacher: str | None = field(
        default=None, metadata={"help": "teacher; by default the run's own"}
    )
    data: EvaluateData = field(default_factory=EvaluateData)
    sts: Any = field(
        default=None,
        metadata={"help": "files of score<TAB>sentence<TAB>sentence, [A,B]"},
    )
    decode_samples: int = field(
        default=0, metadata={"help": "decode this many sentences; 0 = all"}
    )
    batch_size: int = field(
        default=64, metadata={"help": "sentences in a forward pass"}
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


def evaluate_run(args: EvaluateArgs, folder: str) -> dict[str, Any]:
    """Metrics of a trained run on ``data.val`` and the STS files."""
    from energyflow_mlx.build.codec import load

    codec = load(folder)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return codec.encode(texts, batch_size=args.batch_size)

    result: dict[str, Any] = {}
    paths = as_paths(args.data.val, "data.val")
    if paths:
        result |= _held_out_metrics(args, codec, paths)
    sts = as_paths(args.sts, "sts")
    if sts:
        result["spearman"] = spearman_of(sts, encode)
    return result


def _held_out_metrics(args: EvaluateArgs, codec: Any, paths: list[str]) -> dict:
    """Distances to the teacher, retrieval, cross entropy and decoding quality."""
    from energyflow_mlx.build.data import held_out_set
    from energyflow_mlx.evaluation.held_out import decoding_metrics, validate
    from energyflow_mlx.evaluation.similarity import cosine_rows
    from energyflow_mlx.readback.engine import ReadbackEngine
    from energyflow_mlx.teacher import teacher_from

    config = codec.config
    if args.teacher:
        config.teacher.name = args.teacher
    held_out = held_out_set([Path(p) for p in paths], codec.tokenizer, config)
    ratio = config.trainer.ratio
    result: dict[str, Any] = validate(
        codec,
        held_out,
        ReadbackEngine(),
    )
    result["sentences"] = len(held_out.ids)
    if ratio < 1 and held_out.texts:
        stop = args.decode_samples or len(held_out.texts)
        truth = list(held_out.texts[:stop])
        texts = codec.decode(held_out.targets[:stop])
        result |= decoding_metrics(texts, truth)
        if config.lattice is not None:
            through = decoding_metrics(codec.decode(codec.encode(truth)), truth)
            result |= {f"{k}_through_lattice": v for k, v in through.items()}
        teacher = teacher_from(config.teacher)
        again = teacher.encode(texts, batch_size=args.batch_size)
        result["semantic_cosine"] = float(
            np.mean(cosine_rows(again, held_out.targets[:stop]))
        )
    return result


def evaluate_teacher(args: EvaluateArgs, name: str) -> dict[str, Any]:
    """Spearman of the teacher itself."""
    from energyflow_mlx.config import TeacherConfig
    from energyflow_mlx.teacher import teacher_from

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

    if args.batch_size < 1 or args.decode_samples < 0:
        raise InputError("[evaluate] batch_size must be >= 1, decode_samples >= 0.")
    started = time.perf_counter()
    if args.run is not None:
        if not as_paths(args.data.val, "data.val") and not as_paths(args.sts, "sts"):
            raise InputError("[evaluate] data.val=FILE or sts=[FILES] must be given.")
        result = evaluate_run(args, args.run)
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
    with RunDisplay() as display:
        title = args.run or f"teacher {args.teacher}"
        display.table(title, ["metric", "value"], rows)
    line = json.dumps(result, ensure_ascii=False)
    if args.run is not None:
        from energyflow_mlx.atomic import write_text

        write_text(Path(args.run) / "evaluation.json", line + "\n")
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    cli.main(EvaluateArgs, evaluate)

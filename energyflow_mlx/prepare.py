"""Sentences to an EFB2 file with a teacher's vectors.

``python -m energyflow_mlx.prepare input=FILE output=FILE.efb teacher=minilm``

What is finished waits in ``<output>.partial/``, so the same command goes on after a
kill; the output appears whole or not at all. On a finished output it does nothing.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import bounds, require_bounds
from energyflow_mlx.config.data import LONGEST
from energyflow_mlx.data.dataset import SentenceSet, read_sentences, write_efb
from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.efb_layout import efb_bytes
from energyflow_mlx.data.files import require_output
from energyflow_mlx.data.provenance import (
    Provenance,
    is_as_written,
    read_provenance,
    sidecar_path,
)
from energyflow_mlx.data.sources import read_texts
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import DiskError, InputError
from energyflow_mlx.runtime import jit_headers
from energyflow_mlx.runtime.atomic import sha256_of
from energyflow_mlx.runtime.disk import require_space, writing
from energyflow_mlx.teacher import (
    FunctionTeacher,
    Teacher,
    cached_vectors,
    import_function,
    teacher_from,
)

_FUNCTION = "callable"


@dataclass
class PrepareArgs:
    """Write sentences with a teacher's vectors to an EFB2 file."""

    input: str = field(
        default="???",
        metadata={"help": ".txt, .jsonl, .csv, .tsv (or .gz), .efb, a folder of .txt"},
    )
    output: str = field(default="???", metadata={"help": ".efb file to write"})
    teacher: str = field(
        default="minilm",
        metadata={
            "help": "minilm, a folder, a hub id, precomputed (the input's), or callable"
        },
    )
    function: str | None = field(
        default=None, metadata={"help": "package.module:name, if teacher=callable"}
    )
    version: str = field(
        default="", metadata={"help": "of the function; another computes anew"}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "name of one of the teacher's prompts"}
    )
    text_column: str = field(
        default="text", metadata={"help": "JSON key or CSV column of the sentence"}
    )
    batch_size: int = field(
        default=0,
        metadata={"help": "most sentences a forward pass; 0 = by device"} | bounds(0),
    )
    max_length: int = field(
        default=128,
        metadata={"help": "longest sentence in tokens"} | bounds(4, LONGEST),
    )
    normalize: bool = field(
        default=True, metadata={"help": "scale vectors to length 1"}
    )
    tokens: bool = field(default=False, metadata={"help": "store the token ids too"})
    dedup: bool = field(default=False, metadata={"help": "keep one of equal sentences"})
    dedup_normalize: bool = field(
        default=False, metadata={"help": "the same without regard to letter case"}
    )
    limit: int = field(
        default=0,
        metadata={"help": "sentences to take from the start; 0 = all"} | bounds(0),
    )


def prepare(args: PrepareArgs) -> None:
    """Run the command; see the module.

    Raises:
        InputError: An argument or the input is wrong; nothing was written.
        DiskError: The output cannot be written; what the teacher has finished waits.
    """
    _check(args)
    start, output = time.monotonic(), Path(args.output)
    with RunDisplay(title="prepare") as display:
        if args.teacher == "precomputed":
            done = _convert(args, output)
        else:
            with _kept(output):
                done = _encode(args, output, display)
        display.message(f"{done}, {time.monotonic() - start:.1f} s")


def _check(args: PrepareArgs) -> None:
    require_bounds(args, "prepare")
    require_output(args.output, ".efb", args.input)
    if args.teacher == "precomputed" and (args.dedup or args.dedup_normalize):
        raise InputError("[prepare] dedup needs a teacher that is not precomputed.")
    if args.teacher == _FUNCTION and args.tokens:
        raise InputError("[prepare] tokens=true needs a teacher with a tokenizer.")


def _encode(args: PrepareArgs, output: Path, display: RunDisplay) -> str:
    """Give every text of the input the teacher's vector; say what was done."""
    jit_headers.prepare()
    texts = _texts(args)
    teacher = _teacher(args)
    note = _provenance(args, teacher, texts)
    is_like_this = output.exists() and read_provenance(output) == note
    if is_like_this and is_as_written(output):
        return f"{output} is up to date"
    _ = teacher.dimension  # a function that will not do fails here: nothing is made
    work = _work_folder(output)
    ids = None
    if args.tokens:
        assert isinstance(teacher, Teacher)  # _check refuses a function
        ids = teacher.tokenize(texts)
    shape = len(texts), teacher.dimension
    if not work.exists():  # else the vectors have their room, in part or in whole
        vectors_bytes = 4 * shape[0] * shape[1]
        require_space(output, [efb_bytes(shape, texts, ids), vectors_bytes])
    with display.task("teacher vectors") as report:
        vectors = cached_vectors(
            teacher, texts, work, report, batch_size=args.batch_size
        )
    staged = work / output.name
    sentences = SentenceSet(texts, ids, vectors)
    write_efb(staged, sentences, normalized=teacher.normalized, provenance=note)
    with writing(output):
        # The old note goes first: it must never lie beside a file it does not describe.
        sidecar_path(output).unlink(missing_ok=True)
        staged.replace(output)
        sidecar_path(staged).replace(sidecar_path(output))
        shutil.rmtree(work)
    return _wrote(output, sentences)


def _work_folder(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@contextmanager
def _kept(output: Path) -> Iterator[None]:
    """Context that says with a disk's error what stays of the work, if anything."""
    try:
        yield
    except DiskError as error:
        if _work_folder(output).exists():
            error.add(
                f"what is finished waits in {_work_folder(output)}, and once that is "
                "mended the same command goes on from it"
            )
        raise


def _teacher(args: PrepareArgs) -> Teacher | FunctionTeacher:
    """The teacher of the arguments; a function is imported, the user has typed it."""
    settings = TeacherConfig(
        name=args.teacher,
        kind=_FUNCTION if args.teacher == _FUNCTION else "bert",
        function=args.function,
        version=args.version,
        prompt=args.prompt,
        max_length=args.max_length,
        normalize=args.normalize,
    )
    return teacher_from(settings, import_function(args.function))


def _convert(args: PrepareArgs, output: Path) -> str:
    """Write the vectors that the input itself carries; say what was done."""
    sentences = read_sentences(Path(args.input), args.text_column)
    if sentences.targets is None:
        raise InputError(f"[prepare] {args.input}: teacher=precomputed needs vectors.")
    if args.limit:
        sentences = sentences.subset(np.arange(min(args.limit, len(sentences))))
    targets = np.asarray(sentences.targets, np.float32)
    if args.normalize:
        targets = unit_rows(targets)
    keep_ids = args.tokens or sentences.texts is None
    ids = sentences.ids if keep_ids else None
    converted = SentenceSet(sentences.texts, ids, targets)
    write_efb(output, converted, normalized=args.normalize)
    return _wrote(output, converted)


def _wrote(output: Path, sentences: SentenceSet) -> str:
    return f"wrote {output}: {len(sentences):,} sentences"


def _texts(args: PrepareArgs) -> list[str]:
    texts = read_texts(Path(args.input), args.text_column)
    if args.dedup or args.dedup_normalize:
        texts, _ = deduplicate(texts, ignore_case=args.dedup_normalize)
    return texts[: args.limit] if args.limit else texts


def _provenance(
    args: PrepareArgs, teacher: Teacher | FunctionTeacher, texts: list[str]
) -> Provenance:
    settings = hashlib.sha256(f"{teacher.fingerprint} {args.tokens}".encode())
    for text in texts:
        settings.update(b"\n" + text.encode())
    tokenizer = teacher.tokenizer_path
    return Provenance(
        model=teacher.name,
        pooling=teacher.pooling,
        normalized=teacher.normalized,
        tokenizer_hash="" if tokenizer is None else sha256_of(tokenizer),
        max_length=teacher.max_length,
        settings=settings.hexdigest(),
    )


def main() -> None:
    """Command line; see the module."""
    cli.main(PrepareArgs, prepare, level=logging.INFO)


if __name__ == "__main__":
    main()

"""Vectors to sentences: ``python -m energyflow_mlx.decode run=PATH input=F output=G``.

Streams files of any size; a file appears whole or not at all. ``output=-`` writes lines
to standard output as they are read.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import bounds
from energyflow_mlx.data.files import STANDARD_STREAM, require_output
from energyflow_mlx.data.vectors import finite_rows, open_matrix
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import default_rows
from energyflow_mlx.runtime.atomic import write_aside
from energyflow_mlx.text.generation import Decoding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Files:
    run: str = field(default="???", metadata={"help": "run folder or export"})
    input: str = field(default="???", metadata={"help": ".npy of [N, E] numbers"})
    output: str = field(
        default="???", metadata={"help": ".txt, one line a row; - for standard output"}
    )
    batch_size: int = field(
        default=0,
        metadata={"help": "rows decoded together; 0 = by device"} | bounds(0),
    )
    function: str | None = field(
        default=None,
        metadata={"help": "package.module:name, if the teacher is a function"},
    )


@dataclass(frozen=True)
class DecodeArgs(Decoding, _Files):
    """Decode every row of a vector file into a line of text with a trained run."""


def decode_file(args: DecodeArgs) -> None:
    """Decode a file of vectors, a chunk at a time."""
    from energyflow_mlx.build.codec import load
    from energyflow_mlx.teacher import import_function
    from energyflow_mlx.teacher.load import embed_with, teacher_from

    source = Path(args.input)
    if source == STANDARD_STREAM:
        raise InputError(
            "[decode] input must be a .npy file, got -: vectors are no lines that "
            "standard input could bring."
        )
    if Path(args.output) != STANDARD_STREAM:
        require_output(args.output, ".txt", args.input)
    vectors = open_matrix(source)
    codec = load(args.run)
    codec.require("decode", "decode")
    if args.function is not None:
        function = import_function(args.function)
        settings = codec.config.teacher
        codec.teach(embed_with(teacher_from(settings, function), settings.batch_size))
    if vectors.shape[1] != codec.dimension:
        raise InputError(
            f"[decode] {args.input} must have {codec.dimension} columns as the run's "
            f"vectors, got {vectors.shape[1]}."
        )
    # What is decoded is alone on standard output.
    is_text = Path(args.output) == STANDARD_STREAM
    with (
        RunDisplay(console=Console(stderr=is_text, highlight=False)) as display,
        display.task("decoding") as report,
        _lines(args.output) as write,
    ):
        step = args.batch_size or default_rows(args)
        for start in range(0, len(vectors), step):
            chunk = finite_rows(vectors[start : start + step], source, start)
            for text in codec.decode_rows(
                chunk, args, batch_size=args.batch_size, first_row=start
            ):
                write(text.replace("\n", " ") + "\n")
            report(start + len(chunk), len(vectors))
    logger.info("wrote %s from [%d, %d] numbers", args.output, *vectors.shape)


@contextmanager
def _lines(output: str) -> Iterator[Callable[[str], object]]:
    """What writes text to a file, which appears whole, or to standard output."""
    if Path(output) == STANDARD_STREAM:
        try:
            yield sys.stdout.write
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as ``head``, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with write_aside(Path(output)) as aside, aside.open("w", encoding="utf-8") as file:
        yield file.write


def main() -> None:
    """Command line; see the module."""
    cli.main(DecodeArgs, decode_file, level=logging.INFO)


if __name__ == "__main__":
    main()

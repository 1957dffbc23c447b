"""Sentences to vectors: ``python -m energyflow_mlx.encode run=PATH input=F output=G``.

Reads every kind of file that training reads, and lines of standard input. A model
without an encoder, a lattice alone, takes the vectors of a ``.npy`` file, or those of
its teacher for texts. Streams files of any size; the output appears whole or not at
all.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.config.checks import bounds, require_bounds
from energyflow_mlx.data.chunks import WINDOW
from energyflow_mlx.data.files import STANDARD_STREAM, read_lines, require_output
from energyflow_mlx.data.sources import iter_texts
from energyflow_mlx.data.vectors import finite_rows, new_matrix, open_matrix, unit_rows
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError

if TYPE_CHECKING:
    from energyflow_mlx.inference import SentenceCodec

logger = logging.getLogger(__name__)

Encoder = Callable[[Iterable[Any]], Iterator[tuple[np.ndarray, np.ndarray]]]
# Runs of texts, or blocks of rows, from the start; may be called again.
Reader = Callable[[], Iterator[Any]]


@dataclass
class EncodeArgs:
    """Encode a file's sentences, or pass a .npy file's rows through the lattice."""

    run: str = field(default="???", metadata={"help": "run folder or export"})
    input: str = field(
        default="???",
        metadata={
            "help": ".txt, .jsonl, .csv, .tsv (or .gz), .efb; - for lines of standard "
            "input; lattice alone: or .npy"
        },
    )
    output: str = field(default="???", metadata={"help": ".npy of [N, E] float32"})
    text_column: str | None = field(
        default=None,
        metadata={"help": "JSON key or table column of a sentence; default: the run's"},
    )
    batch_size: int = field(
        default=0,
        metadata={"help": "most sentences a forward pass; 0 = by device"} | bounds(0),
    )
    normalize: bool = field(default=True, metadata={"help": "scale rows to length 1"})
    function: str | None = field(
        default=None,
        metadata={"help": "package.module:name, if the teacher is a function"},
    )


def text_windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Texts in lists of ``size``."""
    remaining = iter(texts)
    while window := list(islice(remaining, size)):
        yield window


def read_rows(path: Path, size: int) -> Iterator[np.ndarray]:
    """Rows of a ``.npy`` file in blocks of ``size``.

    Raises:
        InputError: The file is missing, damaged, or holds a NaN or infinity.
    """
    rows = open_matrix(path)
    for start in range(0, len(rows), size):
        yield finite_rows(rows[start : start + size], path, start)


def encode_file(args: EncodeArgs) -> None:
    """Encode a file; two passes, one to count its rows and one to encode them."""
    from energyflow_mlx.build.codec import load

    require_bounds(args, "encode")
    source, output = Path(args.input), require_output(args.output, ".npy", args.input)
    if source != STANDARD_STREAM and not os.path.exists(source):
        raise InputError(f"[encode] input {source} does not exist.")
    codec = load(args.run)
    encode = _encoder(args, codec)
    read = _reader(args, codec)
    count = sum(map(len, read()))
    if count == 0:
        raise InputError(f"[encode] input {args.input} must hold sentences, got none.")
    with (
        RunDisplay() as display,
        display.task("encoding") as report,
        new_matrix(output, (count, codec.dimension)) as write,
    ):
        done = 0
        for rows, part in encode(read()):
            write(rows, part)
            done += len(part)
            report(done, count)
    logger.info("wrote %s, [%d, %d] float32", args.output, count, codec.dimension)


def _reader(args: EncodeArgs, codec: "SentenceCodec") -> Reader:
    """What reads the input, in windows; standard input is read at once and kept."""
    source = Path(args.input)
    if source == STANDARD_STREAM:
        lines = [line for _, line in read_lines(source)]
        return lambda: text_windows(lines, WINDOW)
    if source.suffix == ".npy":
        return lambda: read_rows(source, WINDOW)
    column = args.text_column or codec.config.data.text_column
    return lambda: text_windows(iter_texts(source, column), WINDOW)


def _encoder(args: EncodeArgs, codec: "SentenceCodec") -> Encoder:
    """What turns the windows of the input into row numbers and vectors ``[B, E]``."""
    size, is_npy = args.batch_size, args.input.endswith(".npy")
    if "encoder" in codec.model or not codec.model.takes_vectors:
        codec.require("encode", "encode")
        if args.function is not None:
            raise InputError(
                f"[encode] function must be unset for a model that reads text, got "
                f"{args.function}."
            )
        if is_npy:
            raise InputError(
                f"[encode] input {args.input} must be text: only a model without an "
                "encoder takes .npy vectors."
            )
        return partial(codec.encode_windows, batch_size=size, normalize=args.normalize)

    codec.require("encode", "transform")

    def transform(vectors: np.ndarray) -> np.ndarray:
        if vectors.shape[1] != codec.dimension:
            raise InputError(
                f"[encode] {args.input} must have {codec.dimension} columns as the "
                f"run's vectors, got {vectors.shape[1]}."
            )
        found = codec.transform(vectors, batch_size=size)
        return unit_rows(found) if args.normalize else found

    if is_npy:
        return partial(_in_turn, transform)
    from energyflow_mlx.teacher import import_function, teacher_from

    teacher = teacher_from(codec.config.teacher, import_function(args.function))
    return partial(
        _in_turn, lambda texts: transform(teacher.encode(texts, batch_size=size))
    )


def _in_turn(
    encode: Callable[[Any], np.ndarray], windows: Iterable[Any]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and vectors of one window after the other."""
    start = 0
    for window in windows:
        part = encode(window)
        yield np.arange(start, start + len(part)), part
        start += len(part)


def main() -> None:
    """Command line; see the module."""
    cli.main(EncodeArgs, encode_file, level=logging.INFO)


if __name__ == "__main__":
    main()

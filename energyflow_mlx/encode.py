"""Sentences to vectors: ``python -m energyflow_mlx.encode run=PATH input=F output=G``.

A model without an encoder, a lattice alone, takes the vectors of a ``.npy`` file, or
those of its teacher for a text file. Streams files of any size; the output
appears whole or not at all.
"""

import gzip
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.chunks import WINDOW
from energyflow_mlx.data.files import require_other_file
from energyflow_mlx.data.vectors import finite_rows, open_matrix, unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_aside

if TYPE_CHECKING:
    from energyflow_mlx.inference import SentenceCodec

logger = logging.getLogger(__name__)

Encoder = Callable[[Iterable[Any]], Iterator[tuple[np.ndarray, np.ndarray]]]

_REPORT_ROWS = 8192


@dataclass
class EncodeArgs:
    """Encode a text file's lines, or pass a .npy file's rows through the lattice."""

    run: str = field(default="???", metadata={"help": "run folder"})
    input: str = field(
        default="???",
        metadata={"help": ".txt or .txt.gz, a sentence a line; lattice alone: or .npy"},
    )
    output: str = field(default="???", metadata={"help": ".npy of [N, E] float32"})
    weights: str | None = field(
        default=None,
        metadata={"help": "exported .safetensors; default: best checkpoint"},
    )
    batch_size: int = field(
        default=0, metadata={"help": "most sentences a forward pass; 0 = by device"}
    )
    normalize: bool = field(default=True, metadata={"help": "scale rows to length 1"})


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise InputError(f"[encode] input {path} does not exist.")
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8")


def read_chunks(path: Path, size: int) -> Iterator[list[str]]:
    """Lines of a text file in lists of ``size``; an empty line is a sentence too.

    Raises:
        InputError: The file is missing or not UTF-8 text.
    """
    done = 0
    with _open(path) as lines:
        try:
            while chunk := [line.rstrip("\r\n") for line in islice(lines, size)]:
                done += len(chunk)
                yield chunk
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise InputError(
                f"[encode] {path} after line {done}: must be UTF-8 text, got {error}."
            ) from None


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

    if not args.output.endswith(".npy"):
        raise InputError(f"[encode] output must end in .npy, got {args.output}.")
    if args.batch_size < 0:
        raise InputError(f"[encode] batch_size must be >= 0, got {args.batch_size}.")
    source = Path(args.input)
    require_other_file(Path(args.output), source)
    read = read_rows if source.suffix == ".npy" else read_chunks
    count = sum(len(chunk) for chunk in read(source, WINDOW))
    if count == 0:
        raise InputError(f"[encode] input {source} must hold sentences, got none.")
    codec = load(args.run, args.weights)
    encode = _encoder(args, codec)
    with write_aside(Path(args.output)) as aside:
        shape = (count, codec.dimension)
        vectors = np.lib.format.open_memmap(
            aside, mode="w+", dtype=np.float32, shape=shape
        )
        done = 0
        for rows, part in encode(read(source, WINDOW)):
            vectors[rows] = part
            before, done = done, done + len(part)
            if done == count or done // _REPORT_ROWS > before // _REPORT_ROWS:
                logger.info("encoded %d of %d rows", done, count)
        vectors.flush()
        del vectors
    logger.info("wrote %s, [%d, %d] float32", args.output, count, codec.dimension)


def _encoder(args: EncodeArgs, codec: "SentenceCodec") -> Encoder:
    """What turns the windows of the input into row numbers and vectors ``[B, E]``."""
    size, is_npy = args.batch_size, args.input.endswith(".npy")
    if "encoder" in codec.model:
        if is_npy:
            raise InputError(
                f"[encode] input {args.input} must be text: only a model without an "
                "encoder takes .npy vectors."
            )
        return partial(codec.encode_windows, batch_size=size, normalize=args.normalize)

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
    from energyflow_mlx.teacher import teacher_from

    teacher = teacher_from(codec.config.teacher)
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

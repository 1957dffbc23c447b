"""Sentences to vectors: ``python -m energyflow_mlx.encode run=PATH input=F output=G``.

Streams files of any size; the output appears whole or not at all.
"""

import gzip
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from energyflow_mlx import cli
from energyflow_mlx.atomic import write_aside
from energyflow_mlx.errors import InputError

logger = logging.getLogger(__name__)

_CHUNK = 8192


@dataclass
class EncodeArgs:
    """Encode every line of a text file with a trained run."""

    run: str = field(default="???", metadata={"help": "run folder"})
    input: str = field(
        default="???", metadata={"help": ".txt or .txt.gz, one sentence a line"}
    )
    output: str = field(default="???", metadata={"help": ".npy of [N, E] float32"})
    batch_size: int = field(default=64, metadata={"help": "sentences a forward pass"})
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


def encode_file(args: EncodeArgs) -> None:
    """Encode a file; two passes, one to count its lines and one to encode them."""
    from energyflow_mlx.inference import load

    if not args.output.endswith(".npy"):
        raise InputError(f"[encode] output must end in .npy, got {args.output}.")
    if args.batch_size < 1:
        raise InputError(f"[encode] batch_size must be >= 1, got {args.batch_size}.")
    source = Path(args.input)
    count = sum(len(chunk) for chunk in read_chunks(source, _CHUNK))
    if count == 0:
        raise InputError(f"[encode] input {source} must hold sentences, got none.")
    codec = load(args.run)
    with write_aside(Path(args.output)) as aside:
        shape = (count, codec.dimension)
        vectors = np.lib.format.open_memmap(
            aside, mode="w+", dtype=np.float32, shape=shape
        )
        start = 0
        for chunk in read_chunks(source, _CHUNK):
            part = codec.encode(
                chunk, batch_size=args.batch_size, normalize=args.normalize
            )
            vectors[start : start + len(part)] = part
            start += len(part)
            logger.info("encoded %d of %d sentences", start, count)
        vectors.flush()
        del vectors
    logger.info("wrote %s, [%d, %d] float32", args.output, count, codec.dimension)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cli.main(EncodeArgs, encode_file)

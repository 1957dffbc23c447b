"""Vectors to sentences: ``python -m energyflow_mlx.decode run=PATH input=F output=G``.

Streams files of any size; the output appears whole or not at all.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.files import require_other_file
from energyflow_mlx.data.vectors import finite_rows, open_matrix
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import default_rows
from energyflow_mlx.runtime.atomic import write_aside
from energyflow_mlx.text.generation import Decoding

logger = logging.getLogger(__name__)

_BATCHES = 8  # decoded between two lines of progress


@dataclass(frozen=True)
class _Files:
    run: str = field(default="???", metadata={"help": "run folder"})
    input: str = field(default="???", metadata={"help": ".npy of [N, E] numbers"})
    output: str = field(default="???", metadata={"help": ".txt, one line a row"})
    batch_size: int = field(
        default=0, metadata={"help": "rows decoded together; 0 = by device"}
    )


@dataclass(frozen=True)
class DecodeArgs(Decoding, _Files):
    """Decode every row of a vector file into a line of text with a trained run."""


def decode_file(args: DecodeArgs) -> None:
    """Decode a file of vectors, a chunk at a time."""
    from energyflow_mlx.build.codec import load

    source = Path(args.input)
    require_other_file(Path(args.output), source)
    vectors = open_matrix(source)
    if args.batch_size < 0:
        raise InputError(f"[decode] batch_size must be >= 0, got {args.batch_size}.")
    codec = load(args.run)
    if vectors.shape[1] != codec.dimension:
        raise InputError(
            f"[decode] {args.input} must have {codec.dimension} columns as the run's "
            f"vectors, got {vectors.shape[1]}."
        )
    with (
        write_aside(Path(args.output)) as aside,
        aside.open("w", encoding="utf-8") as f,
    ):
        step = _BATCHES * (args.batch_size or default_rows(args))
        for start in range(0, len(vectors), step):
            chunk = finite_rows(vectors[start : start + step], source, start)
            for text in codec.decode_rows(
                chunk, args, batch_size=args.batch_size, first_row=start
            ):
                f.write(text.replace("\n", " ") + "\n")
            logger.info("decoded %d of %d rows", start + len(chunk), len(vectors))


def main() -> None:
    """Command line; see the module."""
    cli.main(DecodeArgs, decode_file, level=logging.INFO)


if __name__ == "__main__":
    main()

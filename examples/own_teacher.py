"""Train on any function from texts to vectors, without the command line.

    python examples/own_teacher.py my.txt runs/own

The function here hashes words and pairs of words into 256 bins. Put a call of your own
model in its place, and type another version: vectors are cached under name and version.
"""

import sys
import zlib

import numpy as np

from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    Config,
    DataConfig,
    RunConfig,
    TeacherConfig,
    TokenizerConfig,
    TrainerConfig,
)


def embed(texts: list[str]) -> np.ndarray:
    """Hashed counts of words and neighboring words, ``[N, 256]`` float32.

    Args:
        texts: N texts.
    """
    vectors = np.zeros((len(texts), 256), np.float32)
    for row, text in enumerate(texts):
        words = text.lower().split()
        for part in [*words, *map(" ".join, zip(words, words[1:], strict=False))]:
            vectors[row, zlib.crc32(part.encode()) % 256] += 1
    return vectors


def main(sentences: str, folder: str, *, epochs: int = 6) -> dict:
    """Train, and give what ``summary.json`` has.

    Args:
        sentences: Text file, a sentence a line.
        folder: Run folder; a run that is there is resumed.
        epochs: Passes over the sentences.
    """
    config = Config(
        data=DataConfig(train=sentences, buckets=[]),
        teacher=TeacherConfig(kind="callable", function="embed", version="1"),
        tokenizer=TokenizerConfig(kind="bpe", bpe_size=2000),
        trainer=TrainerConfig(epochs=epochs),
        run=RunConfig(folder),
    )
    return run(config, function=embed)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/own_teacher.py SENTENCES.txt RUN")
    main(*sys.argv[1:])

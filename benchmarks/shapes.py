"""How many shapes does a run compile, and what does the padding cost?

Run ``python benchmarks/shapes.py [--train FILE ...]``. Goes through 5,000 updates of
the ``ab`` experiment, batches made and not computed, on built-in captions or on files
of sentences; counts the shapes of ids and touched rows that each objective meets, and
the padded tokens for each real one. Refutes the claim that an objective compiles at
most 8 variants where it meets more shapes.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import BucketBatcher, lengths_that_pad_least
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import read_many
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.teacher import teacher_from
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.token_rows import (
    draw_candidates,
    occurring_rows,
    token_shares,
)

BEFORE = [12, 14, 16, 18, 20, 24, 32, 64, 128]
CANDIDATES, UPDATES, MOST = 2048, 5000, 8
Row = dict[str, float | int | str | list[int]]


def count(
    ids: list[np.ndarray], vocab_size: int, batch_size: int, buckets: list[int]
) -> Row:
    """Shapes that each objective meets, and the share of padding."""
    targets = np.zeros((len(ids), 1), np.float32)
    batcher = BucketBatcher(
        ids,
        targets,
        vocab_size=vocab_size,
        batch_size=batch_size,
        buckets=buckets,
        seed=Config().seed,
    )
    turns = Alternation({"distillation": 1.0, "reconstruction": 1.0}, Config().seed)
    shares = token_shares(ids, vocab_size)
    shapes: dict[str, set[tuple[int, int]]] = defaultdict(set)
    padded = real = 0.0
    for number, batch in batcher.batches(0):
        if number == UPDATES:
            break
        rows = occurring_rows(batch.ids, vocab_size)
        total = batch.mask.sum()
        drawn = draw_candidates(rows, shares, total, CANDIDATES, (0, number))
        shape = (batch.ids.shape[1], len(drawn.tokens))
        shapes[turns.objective_of(number)].add(shape)
        padded, real = padded + batch.ids.size, real + total
    return {
        "batch": batch_size,
        "buckets": buckets,
        **{f"{name}_shapes": len(found) for name, found in sorted(shapes.items())},
        "padding": float(padded / real - 1),
    }


def main() -> None:
    """Count for several batch sizes, show, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, nargs="*", default=[])
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    config = Config()
    if arguments.train:
        texts = read_many(arguments.train).texts
        assert texts is not None
        source = ", ".join(path.name for path in arguments.train)
    else:
        texts = generate_captions(config.data.captions, config.seed)
        source = f"built-in captions ({len(texts)})"
    teacher = teacher_from(config.teacher)
    tokenizer = Tokenizer.from_source(teacher.tokenizer_path, texts, min_count=1)
    ids = tokenizer.encode(texts, config.data.max_length)
    chosen = lengths_that_pad_least(np.array([len(row) for row in ids]), MOST)
    rows = [
        count(ids, tokenizer.vocab_size, batch, buckets)
        for batch in arguments.batches
        for buckets in (BEFORE, chosen)
    ]
    for row in rows:
        print(
            f"batch {row['batch']:4}  A {row['distillation_shapes']} and B "
            f"{row['reconstruction_shapes']} shapes  padding {row['padding']:.1%}  "
            f"{row['buckets']}"
        )
    words = [Path(word).name for word in sys.argv]
    record = {"data": source, "updates": UPDATES, "command": " ".join(words)}
    if arguments.output:
        text = json.dumps(record | {"cases": rows}, indent=1) + "\n"
        write_text(arguments.output, text)
    most = max(
        int(str(row[f"{name}_shapes"]))
        for row in rows
        if row["buckets"] == chosen
        for name in ("distillation", "reconstruction")
    )
    if most > MOST:
        raise SystemExit(f"an objective met {most} shapes, more than {MOST}")


if __name__ == "__main__":
    main()

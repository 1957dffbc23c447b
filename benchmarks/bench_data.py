"""Does reading an EFB2 file beat JSON Lines, and do batches outrun a training step?

    python benchmarks/bench_data.py [--quick]

Refuted if opening EFB2 is not 5 times as fast as reading the same records as JSON
Lines, or if a batch of 64 takes more than 5 ms (a training step takes 100 and more).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import numpy as np

from energyflow_mlx.data.batching import BucketBatcher
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import SentenceSet, read_sentences, write_efb
from energyflow_mlx.data.jsonl import write_jsonl

WIDTH, VOCAB, ROUNDS = 384, 3_000, 5


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="2,000 records, not 10,000"
    )
    count = 2_000 if parser.parse_args().quick else 10_000
    rng = np.random.default_rng(0)
    texts = generate_captions(count, seed=0)
    targets = rng.normal(size=(count, WIDTH)).astype(np.float32)
    rows = [rng.integers(1, VOCAB, n) for n in rng.integers(8, 30, count)]
    with tempfile.TemporaryDirectory() as folder:
        efb, jsonl = Path(folder) / "a.efb", Path(folder) / "a.jsonl"
        write_efb(efb, SentenceSet(texts, None, targets))
        write_jsonl(jsonl, texts=texts, targets=targets)
        for path in (efb, jsonl):  # correct first
            assert read_sentences(path).texts == texts
            np.testing.assert_array_equal(read_sentences(path).targets, targets)
        pairs = [
            (
                milliseconds(lambda: read_sentences(efb)),
                milliseconds(lambda: read_sentences(jsonl)),
            )
            for _ in range(ROUNDS)
        ]
    batcher = BucketBatcher(
        rows,
        targets,
        vocab_size=VOCAB,
        batch_size=64,
        buckets=(16, 32, 64, 128),
        seed=0,
    )
    plan_ms = [milliseconds(lambda: batcher.plan(1)) for _ in range(ROUNDS)]
    batch_ms = [milliseconds(lambda p=p: batcher.batch(*p)) for p in batcher.plan(0)]
    samples = {
        f"read {count} records of EFB2": [efb for efb, _ in pairs],
        f"read {count} records of JSON Lines": [jsonl for _, jsonl in pairs],
        "plan an epoch": plan_ms,
        "make a batch of 64": batch_ms,
    }
    figures = {name: timing.figure("ms", found) for name, found in samples.items()}
    for name, found in figures.items():
        print(f"{name:36} {found['spread'][1]:8.3f} ms")
    ratio = timing.spread([b / a for a, b in pairs])
    timing.finish("data", [], None, figures=figures, jsonl_over_efb=ratio)
    if ratio[1] < 5 or np.median(batch_ms) > 5:
        raise SystemExit("EFB2 is not 5 times as fast, or a batch takes over 5 ms")


if __name__ == "__main__":
    main()

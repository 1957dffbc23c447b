"""Does reading an EFB2 file beat JSON Lines, and do batches outrun a training step?

    python benchmarks/bench_data.py

Refuted if opening EFB2 is not 5 times as fast as reading the same records as JSON
Lines, or if a batch of 64 takes more than 5 ms (a training step takes 100 and more).
"""

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from energyflow_mlx.data.batching import BucketBatcher
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import SentenceSet, read_sentences, write_efb
from energyflow_mlx.data.jsonl import write_jsonl

COUNT, WIDTH, VOCAB, ROUNDS = 10_000, 384, 3_000, 5


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    rng = np.random.default_rng(0)
    texts = generate_captions(COUNT, seed=0)
    targets = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    rows = [rng.integers(1, VOCAB, n) for n in rng.integers(8, 30, COUNT)]
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
    plan_ms = min(milliseconds(lambda: batcher.plan(1)) for _ in range(ROUNDS))
    batch_ms = [milliseconds(lambda p=p: batcher.batch(*p)) for p in batcher.plan(0)]
    result = {
        "op": "data",
        "records": COUNT,
        "efb_ms": round(min(pair[0] for pair in pairs), 1),
        "jsonl_ms": round(min(pair[1] for pair in pairs), 1),
        "ratio_p20_p50_p80": [
            round(float(r), 1)
            for r in np.quantile([b / a for a, b in pairs], [0.2, 0.5, 0.8])
        ],
        "plan_ms": round(plan_ms, 2),
        "batch_ms_p20_p50_p80": [
            round(float(q), 3) for q in np.quantile(batch_ms, [0.2, 0.5, 0.8])
        ],
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    for key, value in result.items():
        print(f"{key:22} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

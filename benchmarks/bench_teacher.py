"""Does the MLX teacher equal PyTorch's, and how fast is it beside it?

    python benchmarks/bench_teacher.py [--data FOLDER] [--rounds N]

Claims this would refute: on all-MiniLM-L6-v2, row-wise cosine with the stored PyTorch
vectors >= 0.9999, Spearman x 100 of 82.0 +- 0.1 on STS-B test and 77.1 +- 0.1 on
SICK-R, and at least 0.7 times PyTorch's sentences per second on the same captions in
the same process, tokenising included.

FOLDER holds ``captions_val.txt.gz``, ``sts/*.tsv`` and ``minilm/*.npy``; without it
the folder ``shared/data`` beside the checkout is taken. Without torch and transformers
the speed of MLX alone is measured. No speed is printed for a wrong result.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import numpy as np

from energyflow_mlx.runtime import blas
from energyflow_mlx.teacher import Teacher, load_teacher

CHECKOUT = Path(__file__).resolve().parents[1]
SETS = {"stsb_test": 82.0, "sickr_test": 77.1}
TOLERANCE = 0.1
MIN_COSINE = 0.9999
MIN_RATIO = 0.7
TORCH_BATCH = 64

Encode = Callable[[list[str]], np.ndarray]


def read_lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def ranks(x: np.ndarray) -> np.ndarray:
    """Rank with ties averaged."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def check_captions(teacher: Teacher, data: Path) -> float:
    vectors = teacher.encode(read_lines(data / "captions_val.txt.gz"), batch_size=64)
    stored = unit(np.load(data / "minilm" / "captions_val.npy"))
    return float((vectors * stored).sum(1).min())


def check_pairs(teacher: Teacher, data: Path, name: str) -> tuple[float, float]:
    """Spearman x 100, and the smallest cosine with the stored vectors."""
    lines = (data / "sts" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    scores, first, second = zip(*(line.split("\t") for line in lines), strict=True)
    vectors = teacher.encode([*first, *second], batch_size=64)
    a, b = vectors[: len(lines)], vectors[len(lines) :]
    stored = [np.load(data / "minilm" / f"{name}_s{k}.npy") for k in (1, 2)]
    cosine = float((vectors * unit(np.concatenate(stored))).sum(1).min())
    gold = np.array([float(score) for score in scores])
    return 100 * spearman((a * b).sum(1), gold), cosine


def check(teacher: Teacher, data: Path) -> dict[str, float]:
    """Compare with PyTorch's stored vectors; stops the program on a wrong result."""
    cosines = [check_captions(teacher, data)]
    record = {}
    for name, expected in SETS.items():
        rho, cosine = check_pairs(teacher, data, name)
        cosines.append(cosine)
        record[name] = round(rho, 3)
        if abs(rho - expected) > TOLERANCE:
            raise SystemExit(f"wrong result: {name} {rho:.2f}, expected {expected}")
    record["min_cosine"] = min(cosines)
    if record["min_cosine"] < MIN_COSINE:
        raise SystemExit(f"wrong result: cosine {record['min_cosine']}")
    return record


def torch_encoder(folder: Path) -> Encode | None:
    """The same model in PyTorch, fp32; None where torch is not installed."""
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        return None
    torch.set_num_threads(max(1, blas.info().threads or 1))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = np.empty((len(texts), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), TORCH_BATCH):
                members = order[start : start + TORCH_BATCH]
                batch = tokenizer(
                    [texts[i] for i in members],
                    padding=True,
                    truncation=True,
                    max_length=128,
                    return_tensors="pt",
                )
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None]
                y = (hidden * mask).sum(1) / mask.sum(1)
                out[members] = torch.nn.functional.normalize(y).numpy()
        return out

    return encode


def time_rate(encode: Encode, texts: list[str]) -> float:
    start = time.perf_counter()
    encode(texts)
    return len(texts) / (time.perf_counter() - start)


def measure(teacher: Teacher, data: Path, rounds: int) -> dict[str, Any]:
    """Sentences per second, MLX and PyTorch by turns, and the ratio of each turn."""
    texts = read_lines(data / "captions_val.txt.gz")
    other = torch_encoder(teacher.tokenizer_path.parent)
    ours, theirs, ratios = [], [], []
    for encode in filter(None, (teacher.encode, other)):
        encode(texts)  # shapes traced, kernels compiled
    for _ in range(rounds):
        ours.append(time_rate(teacher.encode, texts))
        if other is not None:
            theirs.append(time_rate(other, texts))
            ratios.append(ours[-1] / theirs[-1])
    record: dict[str, Any] = {
        "figures": {"the teacher encodes": timing.figure("sentences/s", ours)}
    }
    if other is not None:
        record["torch_per_s"] = timing.spread(theirs)
        record["ratio"] = timing.spread(ratios)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=CHECKOUT.parent / "shared/data")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not (arguments.data / "minilm").is_dir():
        reason = f"no folder {arguments.data.name}/minilm of PyTorch's vectors: --data"
        timing.cannot_run("teacher", reason)
    teacher = load_teacher("minilm", 128, normalize=True)
    record: dict[str, Any] = dict(check(teacher, arguments.data))
    record |= measure(teacher, arguments.data, arguments.rounds)
    for key, value in record.items():
        print(f"{key:14} {value}")
    ratio = record.get("ratio")
    timing.finish("teacher", [], None, **record, blas=str(blas.info()))
    if ratio is not None and ratio[1] < MIN_RATIO:
        raise SystemExit(f"slower than {MIN_RATIO} x PyTorch")


if __name__ == "__main__":
    main()

"""How many sentences a second do the encoders give, beside their teacher?

    python benchmarks/bench_encode.py [--data FOLDER] [--run DEFAULT] [--small SMALL]

Claims it would refute: in one process, tokenising included, the default encoder gives 8
times and ``encoder=tcn_small`` 40 times the sentences a second of the MLX teacher; an
encoder stored in 8 bits takes at most 30 % of its bytes and loses at most 0.3 points of
STS-B.

FOLDER holds ``captions_val.txt.gz`` and ``sts/stsb_dev.tsv``; without it built-in
captions are encoded. DEFAULT and SMALL are run folders of
trained encoders; without them the weights are random, which costs the same time, and no
STS is measured. Shares of the time are measured apart: the tokenizer alone, padding
alone, the forward pass alone.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from omegaconf import OmegaConf

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.model import build_model
from energyflow_mlx.config import Config, TcnEncoderConfig
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.chunks import run_chunks
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.similarity import read_sts, sts_score
from energyflow_mlx.export import ExportArgs, export
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runtime import blas
from energyflow_mlx.teacher import Teacher, load_teacher
from energyflow_mlx.text.tokenizer import Tokenizer

CHECKOUT = Path(__file__).resolve().parents[1]
SMALL = CHECKOUT / "conf" / "encoder" / "tcn_small.yaml"
TEACHER_SHARE = 4  # the teacher gets every fourth sentence: it takes that much longer

Encode = Callable[[list[str]], np.ndarray]


def untrained(teacher: Teacher, preset: Path | None = None) -> SentenceCodec:
    """A codec of random weights over the teacher's whole vocabulary."""
    settings = {} if preset is None else dict(OmegaConf.load(preset))
    settings.pop("defaults", None)
    config = Config(share="none", encoder=TcnEncoderConfig(**settings))
    tokenizer = Tokenizer.from_source(teacher.tokenizer_path, None)
    model = build_model(config, {"encoder"}, tokenizer.vocab_size, teacher.dimension)
    mx.eval(model.parameters())
    return SentenceCodec(model, tokenizer, config, teacher.dimension)


def require_batch_independence(codec: SentenceCodec, texts: list[str]) -> None:
    """Refuse to time vectors that depend on the sentences beside them."""
    whole = codec.encode(texts)
    alone = np.concatenate([codec.encode([text]) for text in texts[:8]])
    if np.abs(whole[:8] - alone).max() > 1e-5:
        raise SystemExit("a vector depends on its batch")


def rate(encode: Encode, texts: list[str]) -> float:
    """Sentences a second of one pass."""
    start = time.perf_counter()
    encode(texts)
    return len(texts) / (time.perf_counter() - start)


def shares(codec: SentenceCodec, texts: list[str]) -> dict[str, float]:
    """Microseconds a sentence of the parts of encoding, each alone."""
    limit, tokenizer = codec.config.data.buckets[-1], codec.tokenizer
    source = tokenizer._source
    rows = tokenizer.encode(texts, limit)

    def nothing(ids: mx.array, mask: mx.array | None) -> mx.array:
        return mx.zeros((ids.shape[0], 1))

    parts = {
        "tokenizer": lambda: source.encode_batch_fast(texts, add_special_tokens=False),
        "tokenizer and ids": lambda: tokenizer.encode(texts, limit),
        "order and padding": lambda: [*run_chunks(nothing, [rows], 0, limit)],
        "from ids": lambda: codec.encode_ids(rows, normalize=True),
        "all": lambda: codec.encode(texts),
    }
    found = {}
    for name, call in parts.items():
        call()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        found[name] = round(float(np.median(seconds)) / len(texts) * 1e6, 2)
    return found


def read_texts(data: Path | None, count: int) -> list[str]:
    """The folder's captions, or built-in ones."""
    if data is None:
        return generate_captions(count, seed=0)
    with gzip.open(data / "captions_val.txt.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()[:count]


def stsb(encode: Encode, data: Path, name: str) -> float:
    """Spearman x 100."""
    pairs = read_sts(data / "sts" / f"{name}.tsv")
    return sts_score(encode(pairs.first), encode(pairs.second), pairs.scores)


def in_8_bits(run: Path, data: Path, sts: str) -> dict[str, float]:
    """STS and bytes of a run's encoder in float32 and in 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        export(ExportArgs(run=str(run), output=str(path), dtype="int8"))
        whole, packed = load(run), load(run, path)
        parts = [whole.model.encoder, *whole.model.shared]
        full = sum(
            p.nbytes for part in parts for _, p in tree_flatten(part.parameters())
        )
        before, after = stsb(whole.encode, data, sts), stsb(packed.encode, data, sts)
        size = path.stat().st_size
    return {
        "float32_bytes": full,
        "int8_bytes": size,
        "share": round(size / full, 4),
        sts: round(before, 3),
        f"{sts}_int8": round(after, 3),
        "lost": round(before - after, 3),
    }


def parse() -> argparse.Namespace:
    line = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    line.add_argument("--data", type=Path, help="folder; else built-in captions")
    line.add_argument("--sentences", type=int, default=2000, help="most of them")
    line.add_argument("--run", type=Path, help="run of the default encoder")
    line.add_argument("--small", type=Path, help="run of encoder=tcn_small")
    line.add_argument("--sts", default="stsb_dev", help="name of the STS set")
    line.add_argument("--rounds", type=int, default=5)
    line.add_argument("--output", type=Path, help="JSON file to write")
    args = line.parse_args()
    if (args.run or args.small) and not args.data:
        line.error("--run and --small are measured on STS: name --data too")
    return args


def main() -> None:
    """Check, measure in turn, show, write."""
    args = parse()
    texts = read_texts(args.data, args.sentences)
    try:
        teacher = load_teacher("minilm", 128, normalize=True)
    except InputError as error:
        timing.cannot_run("encode", str(error))
    codecs = {
        "default": load(args.run) if args.run else untrained(teacher),
        "tcn_small": load(args.small) if args.small else untrained(teacher, SMALL),
    }
    ways: dict[str, Encode] = {"teacher": teacher.encode}
    for name, codec in codecs.items():
        require_batch_independence(codec, texts)
        ways[name] = codec.encode
    few = texts[::TEACHER_SHARE]
    teacher.encode(few)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, encode in ways.items():
            rates[name].append(rate(encode, few if name == "teacher" else texts))
    extra: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "blas": str(blas.info()),
        "figures": {name: timing.figure("sentences/s", r) for name, r in rates.items()},
    }
    for name in codecs:
        pairs = zip(rates[name], rates["teacher"], strict=True)
        extra[f"{name}_over_teacher"] = timing.spread([a / b for a, b in pairs])
        extra[f"{name}_us_a_sentence"] = shares(codecs[name], texts)
    for name, run in {"default": args.run, "tcn_small": args.small}.items():
        if run is not None:
            extra[f"{name}_8_bits"] = in_8_bits(run, args.data, args.sts)
    for key, value in extra.items():
        print(f"{key:26} {value}")
    timing.finish("encode", [], args.output, **extra)


if __name__ == "__main__":
    main()

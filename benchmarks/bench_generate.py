"""How fast does the decoder write, and does a token cost more the later it comes?

    python benchmarks/bench_generate.py [--decoder NAME] [--batch B] [--json FILE]

Claims it would refute: tokens a second are the same from length 8 to 128; 64 tokens are
written 5 times as fast as by computing the whole sentence again for each; on an H200
``--decoder 28m --batch 2048`` writes at least 50,000 sentences of 14 tokens a second.
Weights are random and never end a sentence, so that every length is what it says.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from energyflow_mlx.text.blocks import BlockList
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.generation import Decoding, Generator
from energyflow_mlx.text.generation.sampling import forbidden
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

SPECIAL = SpecialIds(pad=0, unknown=3, start=1, end=2)
# Vocabulary, width, hidden width; four blocks each, dilations 1, 2, 4, 8.
DECODERS = {
    "tiny": (701, 64, 96),
    "default": (11_215, 384, 512),
    "28m": (30_522, 384, 512),
}
CHOICES = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 40, top-p 0.9": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "beam 4": {"beams": 4},
}
SENTENCE, LONG = 14, 64
LENGTHS = (8, 32, 64, 128)
# Nodes of a graph that move no data.
_VIEWS = re.compile(
    r"^(Reshape|Transpose|Broadcast|Slice|Squeeze|ExpandDims|Split|Unflatten|Flatten)"
)


def endless_decoder(vocab: int, dim: int, hidden: int) -> TCNDecoder:
    """Make a decoder of random weights that never ends a sentence by itself."""
    blocks = BlockList(
        dim=dim,
        hidden=hidden,
        kernel_size=3,
        dilations=[1, 2, 4, 8],
        causal=True,
        dropout=0.0,
        gelu="exact",
        shared=0,
        context=False,
    )
    decoder = TCNDecoder(
        vocab,
        dim,
        blocks,
        conditioning="film",
        coverage=True,
        output_condition=True,
        tied=False,
    )
    for film in decoder.films:
        film.projection.weight = 0.1 * mx.random.normal((2 * dim, dim))
    decoder.output.bias = mx.zeros(vocab).at[SPECIAL.end].add(-1e4)
    mx.eval(decoder.parameters())
    return decoder


class Recomputation:
    """Greedy decoding that runs the whole sentence again for each token."""

    def __init__(self, decoder: TCNDecoder) -> None:
        self._decoder = decoder
        self._next = mx.compile(self._choose, inputs=[decoder.state])

    def _choose(self, ids: mx.array, z: mx.array) -> mx.array:
        features = self._decoder.features(ids, mx.ones(ids.shape), z)[:, -1]
        banned = forbidden(self._decoder.embedding.weight.shape[0], SPECIAL)
        return mx.argmax(self._decoder.logits(features, banned), axis=-1)

    def __call__(self, z: mx.array, length: int) -> mx.array:
        """Token ids ``[B, length]``; the logits of the last position only."""
        ids = mx.full((z.shape[0], 1), SPECIAL.start, dtype=mx.int32)
        for _ in range(length):
            token = self._next(ids, z).astype(mx.int32)
            ids = mx.concatenate([ids, token[:, None]], axis=1)
            mx.async_eval(ids)
        return ids[:, 1:]


def require_teacher_forced_choice(decoder: TCNDecoder, z: mx.array) -> None:
    """Refuse to time generation that is not the argmax of the parallel pass."""
    ids = Generator(decoder, SPECIAL)(z, Decoding(max_length=24))
    start = np.full((len(ids), 1), SPECIAL.start, np.int32)
    inputs = mx.array(np.concatenate([start, ids[:, :-1]], axis=1))
    features = decoder.features(inputs, mx.ones(inputs.shape), z)
    banned = forbidden(decoder.embedding.weight.shape[0], SPECIAL)
    logits = decoder.logits(features, banned)
    best = mx.max(logits, axis=-1)
    chosen = mx.take_along_axis(logits, mx.array(ids)[..., None], axis=-1)[..., 0]
    # Products in TF32 on a GPU round the logits, in another order in each of the two.
    allowed = 3e-2 if timing.on_gpu() else 1e-4
    if float(mx.max(best - chosen)) > allowed:
        raise SystemExit("the generator does not choose the likeliest token")


def kernels_of_a_step(decoder: TCNDecoder, z: mx.array) -> dict[str, int]:
    """Operations that one compiled greedy step hands to the device, by name."""
    generator = Generator(decoder, SPECIAL)
    step = generator._step(Decoding())
    state = decoder.init_state(z)
    token = mx.full((z.shape[0],), SPECIAL.start, dtype=mx.int32)
    done = mx.zeros(z.shape[0], dtype=mx.bool_)
    banned = forbidden(decoder.embedding.weight.shape[0], SPECIAL)
    mx.eval(state, token, done, banned)
    token, done, moving = step(token, done, state, banned, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.dot"
        mx.export_to_dot(str(path), token, done, moving)
        labels = re.findall(r'label ="([^"]*)"', path.read_text(encoding="utf-8"))
    counts: dict[str, int] = {}
    for label in labels:
        name = re.sub(r"^Compiled.*", "Compiled", label)
        if not _VIEWS.match(name):
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def in_turn(
    result: timing.Result, ways: Mapping[str, timing.Call], rounds: int
) -> None:
    """Time calls in turn, once each round: every one is long enough for the clock."""
    began = time.perf_counter()
    for call in ways.values():
        timing.run(call)
    result.seconds["warm-up"] = round(time.perf_counter() - began, 1)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            samples[name].append(timing.run(call) * 1e3)
    result.milliseconds = {name: timing.spread(s) for name, s in samples.items()}
    first, *others = ways
    for name in others:
        pairs = zip(samples[name], samples[first], strict=True)
        result.ratios[name] = timing.spread([a / b for a, b in pairs])


def parse() -> argparse.Namespace:
    """Parse the command line."""
    line = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    line.add_argument("--decoder", choices=[*DECODERS])
    line.add_argument("--batch", type=int, help="rows; 2048 on a GPU, else 128")
    line.add_argument("--rounds", type=int, default=5)
    line.add_argument("--json", type=Path, help="file to write")
    line.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    line.add_argument("--greedy", action="store_true", help="no sampling, no beams")
    line.add_argument("--half", action="store_true", help="weights in bfloat16")
    return line.parse_args()


def main() -> None:
    """Measure, show, write."""
    args = parse()
    name = args.decoder or ("tiny" if args.quick else "default")
    batch = args.batch or (2048 if timing.on_gpu() else 16 if args.quick else 128)
    rounds = min(args.rounds, 2) if args.quick else args.rounds
    vocab, dim, hidden = DECODERS[name]
    mx.random.seed(0)
    decoder = endless_decoder(vocab, dim, hidden)
    z = mx.random.normal((batch, dim)) / dim**0.5
    require_teacher_forced_choice(decoder, z[:8])
    if args.half:
        decoder.set_dtype(mx.bfloat16)
    dtype = "bfloat16" if args.half else "float32"
    generator, again = Generator(decoder, SPECIAL), Recomputation(decoder)

    def write(length: int, **settings: float) -> mx.array:
        return mx.array(generator(z, Decoding(max_length=length, **settings)))

    size = sum(p.size for _, p in tree_flatten(decoder.parameters()))
    kernels = kernels_of_a_step(decoder, z)
    extra = {
        "command": " ".join(["python", *sys.argv]),
        "parameters": size,
        "kernels_of_a_step": kernels,
        "kernels": sum(kernels.values()),
    }
    print(f"{size / 1e6:.1f} M parameters, {sum(kernels.values())} kernels: {kernels}")
    report = timing.Report("generate", args.json, **extra)
    shape = f"{name}: B {batch}, V {vocab}, D {dim}, 4 blocks, film"

    result = timing.Result("generate", f"{SENTENCE} tokens", shape, dtype)
    choices = {"greedy": {}} if args.greedy else CHOICES
    ways = {key: partial(write, SENTENCE, **how) for key, how in choices.items()}
    in_turn(result, ways, rounds)
    result.achieved = {"sentences/s": round(batch / timing.candidate_ms(result) * 1e3)}
    report.add(result)

    result = timing.Result("generate", f"{LONG} tokens", shape, dtype)
    ways = {
        "one step a token": partial(write, LONG),
        "all again for each token": partial(again, z, LONG),
    }
    in_turn(result, ways, rounds)
    report.add(result)

    result = timing.Result("generate", "by length", shape, dtype)
    ways = {f"{n} tokens": partial(write, n) for n in LENGTHS}
    in_turn(result, ways, rounds)
    rates = {
        n: batch * n / result.milliseconds[f"{n} tokens"][1] * 1e3 for n in LENGTHS
    }
    result.achieved = {f"tokens/s at {n}": round(rate) for n, rate in rates.items()}
    report.add(result)
    report.close()


if __name__ == "__main__":
    main()

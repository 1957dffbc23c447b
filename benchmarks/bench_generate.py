"""How fast does the decoder write, and does a token cost more the later it comes?

    python benchmarks/bench_generate.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: on a 2-core CPU 2,000 sentences of 15 tokens, vocabulary 11,215,
come in under a minute, greedy; a step after 128 tokens costs what the first one does.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.model import build_decoder
from energyflow_mlx.config import Config
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.generation import Decoding, generate
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

SPECIAL = SpecialIds(pad=0, unknown=3, start=1, end=2)
SETTINGS = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 40, top-p 0.9": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "beam 4": {"beams": 4},
}


def endless_decoder(vocab: int, dim: int, hidden: int) -> TCNDecoder:
    """Make a decoder of random weights that never ends a sentence by itself."""
    config = Config(share="none")
    config.decoder.dim, config.decoder.hidden = dim, hidden
    config.decoder.dilations = [1, 2, 4, 8]
    config.decoder.conditioning = "film"
    decoder = build_decoder(config, vocab, dim)
    decoder.output.bias = mx.zeros(vocab).at[SPECIAL.end].add(-1e4)
    mx.eval(decoder.parameters())
    return decoder


def require_teacher_forced_choice(decoder: TCNDecoder, z: mx.array) -> None:
    """Refuse to time generation that is not the argmax of the parallel pass."""
    ids = generate(decoder, z, SPECIAL, Decoding(max_length=12))
    start = np.full((len(ids), 1), SPECIAL.start, np.int32)
    inputs = mx.array(np.concatenate([start, ids[:, :-1]], axis=1))
    logits = decoder(inputs, mx.ones(inputs.shape), z)
    logits = logits.at[..., mx.array([0, 1])].add(-1e9)
    best = mx.max(logits, axis=-1)
    chosen = mx.take_along_axis(logits, mx.array(ids)[..., None], axis=-1)[..., 0]
    if float(mx.max(best - chosen)) > 1e-4:
        raise SystemExit("generate does not choose the likeliest token")


def late_step_ratio(decoder: TCNDecoder, z: mx.array, steps: int) -> float:
    """Time of the last quarter of the steps over that of the first."""
    state, token = decoder.init_state(z), mx.zeros(z.shape[0], dtype=mx.int32)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        logits, state = decoder.step(token, state)
        token = mx.argmax(logits, axis=-1)
        mx.eval(token, state)
        seconds.append(time.perf_counter() - start)
    quarter = steps // 4
    first, last = seconds[4 : 4 + quarter], seconds[-quarter:]
    return float(np.median(last) / np.median(first))


def main() -> None:
    """Measure, show, write."""
    arguments = timing.arguments(__doc__ or "")
    rounds = arguments.rounds or 3
    vocab, dim, hidden = (701, 64, 96) if arguments.quick else (11215, 384, 512)
    batch, length = 128, 15
    mx.random.seed(0)
    decoder = endless_decoder(vocab, dim, hidden)
    z = mx.random.normal((batch, dim))
    require_teacher_forced_choice(decoder, z[:8])
    decodings = {
        name: Decoding(max_length=length, **settings)
        for name, settings in SETTINGS.items()
    }
    calls = {
        name: lambda decoding=decoding: mx.array(
            generate(decoder, z, SPECIAL, decoding)
        )
        for name, decoding in decodings.items()
    }
    shape = f"B {batch}, {length} tokens, V {vocab}, D {dim}, 4 blocks, film"
    result = timing.Result("generate", "forward", shape, "float32")
    timing.measure(result, calls, rounds=rounds)
    result.achieved = {
        "sentences/s": round(batch / timing.candidate_ms(result) * 1e3),
        "late_step_ratio": round(late_step_ratio(decoder, z, 128), 2),
    }
    timing.show(result)
    timing.finish("generate", [result], arguments.output)


if __name__ == "__main__":
    main()

"""Sentences from vectors: greedy, sampled, beam search.

Every step feeds one token per sentence through the decoder's cached state, so its
cost does not grow with the sentence. Sentences advance together and a batch stops when
all have ended.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.generation.beam import STOP_CHECK_EVERY, beam_search
from energyflow_mlx.text.generation.sampling import (
    SpecialIds,
    draw,
    permitted,
    token_weights,
    uniform_numbers,
)


def generate(
    decoder: TCNDecoder,
    z: mx.array | np.ndarray,
    *,
    start_id: int,
    end_id: int,
    pad_id: int,
    max_length: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    beams: int = 1,
    length_penalty: float = 1.0,
    seed: int = 0,
    first_row: int = 0,
    shared: Sequence[TCNBlock] = (),
) -> np.ndarray:
    """Generate one sentence per vector.

    The start and padding tokens are never chosen. A sampled sentence depends on
    ``seed`` and on its number ``first_row + i`` only: whoever splits a long list into
    batches gets the same sentences by passing the number of each batch's first row.

    Args:
        decoder: The decoder; dropout never acts here.
        z: Sentence vectors, ``[B, E]``.
        start_id: Token every sentence starts from; not part of the result.
        end_id: Token that ends a sentence.
        pad_id: Token written after the end.
        max_length: Most tokens to generate, the end token included.
        temperature: 0 takes the likeliest token, above 0 samples.
        top_k: Sample among that many likeliest tokens; 0 means all.
        top_p: Sample among the likeliest tokens holding this share; 1 means all.
        beams: Above 1, beam search; not together with sampling.
        length_penalty: Beam search ranks by ``log p / length^length_penalty``.
        seed: Of the sampling.
        first_row: Number of the first sentence.
        shared: The blocks the decoder shares.

    Returns:
        Token ids, ``[B, max_length]`` int32: each row ends with ``end_id`` and then
        padding, or has no end token when ``max_length`` came first.

    Raises:
        ValueError: A setting is out of range, or beams meet sampling.
    """
    _check_settings(max_length, temperature, top_k, top_p, beams)
    z = mx.array(z)
    special = SpecialIds(start_id, end_id, pad_id)
    padded = np.full((z.shape[0], max_length), pad_id, dtype=np.int32)
    if z.shape[0] == 0:
        return padded
    if beams > 1:
        ids = beam_search(
            decoder,
            z,
            special,
            max_length=max_length,
            beams=beams,
            length_penalty=length_penalty,
            shared=shared,
        )
    else:
        rows = first_row + np.arange(z.shape[0])
        uniform = uniform_numbers(seed, rows, max_length) if temperature else None

        def choose(logits: mx.array, step: int) -> mx.array:
            if uniform is None:
                return mx.argmax(logits, axis=-1).astype(mx.int32)
            weights = token_weights(
                logits, temperature=temperature, top_k=top_k, top_p=top_p
            )
            return draw(weights, mx.array(uniform[step]))

        ids = _token_by_token(decoder, z, special, max_length, choose, shared)
    padded[:, : ids.shape[1]] = ids
    return padded


def _token_by_token(
    decoder: TCNDecoder,
    z: mx.array,
    special: SpecialIds,
    max_length: int,
    choose: Callable[[mx.array, int], mx.array],
    shared: Sequence[TCNBlock],
) -> np.ndarray:
    """Extend every sentence by the chosen token until all have ended, ``[B, T]``."""
    state = decoder.init_state(z, shared)
    token = mx.full((z.shape[0],), special.start, dtype=mx.int32)
    done = mx.zeros(z.shape[0], dtype=mx.bool_)
    chosen = []
    for step in range(max_length):
        logits, state = decoder.step(token, state, shared)
        token = choose(permitted(logits, special), step)
        token = mx.where(done, special.pad, token)
        done = mx.logical_or(done, token == special.end)
        chosen.append(token)
        mx.async_eval(token, done, state)
        if (step + 1) % STOP_CHECK_EVERY == 0 and bool(mx.all(done)):
            break
    return np.array(mx.stack(chosen, axis=1))


def _check_settings(
    max_length: int, temperature: float, top_k: int, top_p: float, beams: int
) -> None:
    for name, value, fits, range_ in (
        ("max_length", max_length, max_length >= 1, "at least 1"),
        ("temperature", temperature, temperature >= 0.0, "at least 0"),
        ("top_k", top_k, top_k >= 0, "at least 0"),
        ("top_p", top_p, 0.0 < top_p <= 1.0, "in (0, 1]"),
        ("beams", beams, beams >= 1, "at least 1"),
    ):
        if not fits:
            raise ValueError(f"[generate] {name} must be {range_}, got {value}.")
    if beams > 1 and temperature > 0.0:
        raise ValueError(
            "[generate] beams must be 1 when temperature is above 0, "
            f"got {beams} and {temperature}."
        )

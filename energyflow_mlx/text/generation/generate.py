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
from energyflow_mlx.text.generation.decoding import Decoding
from energyflow_mlx.text.generation.sampling import (
    draw,
    permitted,
    token_weights,
    uniform_numbers,
)
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds


def generate(
    decoder: TCNDecoder,
    z: mx.array | np.ndarray,
    special: SpecialIds,
    decoding: Decoding,
    *,
    first_row: int = 0,
    shared: Sequence[TCNBlock] = (),
) -> np.ndarray:
    """Generate one sentence per vector.

    The start and padding tokens are never chosen. A sampled sentence depends on
    ``decoding.seed`` and on its number ``first_row + i`` only: whoever splits a long
    list into batches gets the same sentences by passing the number of each batch's
    first row.

    Args:
        decoder: The decoder; dropout never acts here.
        z: Sentence vectors, ``[B, E]``.
        special: Start, end and padding token.
        decoding: The settings; corrections are not done here.
        first_row: Number of the first sentence.
        shared: The blocks the decoder shares.

    Returns:
        Token ids, ``[B, max_length]`` int32: each row ends with the end token and then
        padding, or has no end token when ``max_length`` came first.
    """
    z = mx.array(z)
    padded = np.full((z.shape[0], decoding.max_length), special.pad, dtype=np.int32)
    if z.shape[0] == 0:
        return padded
    if decoding.beams > 1:
        ids = beam_search(decoder, z, special, decoding, shared)
    else:
        rows = first_row + np.arange(z.shape[0])
        choose = _chooser(decoding, rows)
        ids = _token_by_token(decoder, z, special, decoding.max_length, choose, shared)
    padded[:, : ids.shape[1]] = ids
    return padded


def _chooser(
    decoding: Decoding, rows: np.ndarray
) -> Callable[[mx.array, int], mx.array]:
    """What picks the tokens ``[B]`` of a step from its logits ``[B, V]``."""
    if decoding.temperature == 0.0:
        return lambda logits, step: mx.argmax(logits, axis=-1).astype(mx.int32)
    uniform = uniform_numbers(decoding.seed, rows, decoding.max_length)

    def sample(logits: mx.array, step: int) -> mx.array:
        weights = token_weights(
            logits,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
        )
        return draw(weights, mx.array(uniform[step]))

    return sample


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

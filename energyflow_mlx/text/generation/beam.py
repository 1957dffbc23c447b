"""Beam search over the decoder's cached state."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.decoder import DecoderState, TCNDecoder
from energyflow_mlx.text.generation.decoding import Decoding
from energyflow_mlx.text.generation.sampling import log_probabilities, permitted
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

# Steps between two looks at whether every sentence has ended: a look waits for the
# device, a step past the end only writes padding.
STOP_CHECK_EVERY = 4


class _Beams(NamedTuple):
    tokens: mx.array  # [B, K] last token
    scores: mx.array  # [B, K] sum of log probabilities
    lengths: mx.array  # [B, K] tokens so far, the end token included
    done: mx.array  # [B, K]
    state: DecoderState  # rows B * K


def _extend(
    beams: _Beams, logits: mx.array, special: SpecialIds
) -> tuple[_Beams, mx.array]:
    """Keep the best K continuations of each sentence; also return their parents."""
    b, k = beams.scores.shape
    vocab_size = logits.shape[-1]
    gain = log_probabilities(permitted(logits, special)).reshape(b, k, vocab_size)
    # An ended beam has one continuation, padding, which costs nothing.
    only_pad = mx.where(mx.arange(vocab_size) == special.pad, 0.0, -mx.inf)
    gain = mx.where(beams.done[..., None], only_pad, gain)
    total = (beams.scores[..., None] + gain).reshape(b, k * vocab_size)
    best = mx.argpartition(-total, k - 1, axis=-1)[:, :k]
    scores = mx.take_along_axis(total, best, axis=-1)
    order = mx.argsort(-scores, axis=-1)
    best = mx.take_along_axis(best, order, axis=-1)
    parents = best // vocab_size  # [B, K]
    tokens = (best % vocab_size).astype(mx.int32)
    was_done = mx.take_along_axis(beams.done, parents, axis=-1)
    rows = (mx.arange(b)[:, None] * k + parents).reshape(-1)
    return _Beams(
        tokens=tokens,
        scores=mx.take_along_axis(scores, order, axis=-1),
        lengths=mx.take_along_axis(beams.lengths, parents, axis=-1) + ~was_done,
        done=mx.logical_or(was_done, tokens == special.end),
        state=beams.state.select(rows),
    ), parents


def _read_back(
    tokens: list[mx.array], parents: list[mx.array], winner: mx.array
) -> np.ndarray:
    """Follow the parents from each sentence's winner to its first token, [B, T]."""
    stacked_tokens = np.array(mx.stack(tokens))  # [T, B, K]
    stacked_parents = np.array(mx.stack(parents))
    beam = np.array(winner)
    sentence = np.arange(beam.shape[0])
    columns = []
    for t in range(len(tokens) - 1, -1, -1):
        columns.append(stacked_tokens[t, sentence, beam])
        beam = stacked_parents[t, sentence, beam]
    return np.stack(columns[::-1], axis=1)


def beam_search(
    decoder: TCNDecoder,
    z: mx.array,
    special: SpecialIds,
    decoding: Decoding,
    shared: Sequence[TCNBlock] = (),
) -> np.ndarray:
    """Most likely sentences under ``log p / length^length_penalty``.

    Args:
        decoder: The decoder.
        z: Sentence vectors, ``[B, E]``.
        special: Start, end and padding token.
        decoding: Length, number of beams K kept per sentence, length penalty.
        shared: The blocks the decoder shares.

    Returns:
        ``[B, T]`` int32 with ``T <= max_length``.
    """
    b, beams = z.shape[0], decoding.beams
    state = decoder.init_state(mx.repeat(z, beams, axis=0), shared)
    first_only = mx.where(mx.arange(beams) == 0, 0.0, -mx.inf)
    current = _Beams(
        tokens=mx.full((b, beams), special.start, dtype=mx.int32),
        scores=mx.broadcast_to(first_only, (b, beams)),
        lengths=mx.zeros((b, beams), dtype=mx.int32),
        done=mx.zeros((b, beams), dtype=mx.bool_),
        state=state,
    )
    tokens, parents = [], []
    for step in range(decoding.max_length):
        logits, state = decoder.step(current.tokens.reshape(-1), current.state, shared)
        current = current._replace(state=state)
        current, origin = _extend(current, logits, special)
        tokens.append(current.tokens)
        parents.append(origin)
        mx.async_eval(current)
        if (step + 1) % STOP_CHECK_EVERY == 0 and bool(mx.all(current.done)):
            break
    length = mx.maximum(current.lengths, 1)
    mean = current.scores / length**decoding.length_penalty
    return _read_back(tokens, parents, mx.argmax(mean, axis=-1))

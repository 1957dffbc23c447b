"""Beam search over the decoder's state."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.corrector import Evidence
from energyflow_mlx.text.decoder import DecoderState, Moving, TCNDecoder
from energyflow_mlx.text.generation.decoding import Decoding
from energyflow_mlx.text.generation.sampling import (
    forbidden,
    log_probabilities,
    look_back,
)
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds


class _Beams(NamedTuple):
    tokens: mx.array  # [B, K] last token
    scores: mx.array  # [B, K] sum of log probabilities
    lengths: mx.array  # [B, K] tokens so far, the end token included
    done: mx.array  # [B, K]


def _extend(
    beams: _Beams, state: DecoderState, logits: mx.array, special: SpecialIds
) -> tuple[_Beams, DecoderState, mx.array]:
    """Keep the best K continuations of each sentence; also return their parents.

    Beams of a sentence have one vector, so their states differ by the past alone.
    """
    b, k = beams.scores.shape
    vocab_size = logits.shape[-1]
    gain = log_probabilities(logits.astype(mx.float32)).reshape(b, k, vocab_size)
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
    kept = _Beams(
        tokens=tokens,
        scores=mx.take_along_axis(scores, order, axis=-1),
        lengths=mx.take_along_axis(beams.lengths, parents, axis=-1) + ~was_done,
        done=mx.logical_or(was_done, tokens == special.end),
    )
    return kept, state.reorder(rows), parents


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


class BeamSearch:
    """Most likely sentences under ``log p / length^length_penalty``.

    Args:
        decoder: The decoder.
        special: Start, end and padding token.
        shared: The blocks the decoder shares.
    """

    def __init__(
        self,
        decoder: TCNDecoder,
        special: SpecialIds,
        shared: Sequence[TCNBlock] = (),
    ) -> None:
        self._decoder = decoder
        self._special = special
        self._shared = shared
        weights = [decoder.state, [block.state for block in shared]]
        self._step = mx.compile(self._advance, inputs=weights)

    def __call__(
        self, z: mx.array, decoding: Decoding, evidence: Evidence | None = None
    ) -> np.ndarray:
        """Search the sentences of ``z [B, E]``.

        Args:
            z: Sentence vectors.
            decoding: Length, number of beams K kept per sentence, length penalty.
            evidence: What a corrector read in guesses; none = there are none.

        Returns:
            ``[B, T]`` int32 with ``T <= max_length``.
        """
        b, width = z.shape[0], decoding.beams
        wide = None if evidence is None else evidence.repeat(width)
        z = mx.repeat(z, width, axis=0)
        state = self._decoder.init_state(z, self._shared, wide)
        first_only = mx.where(mx.arange(width) == 0, 0.0, -mx.inf)
        beams = _Beams(
            tokens=mx.full((b, width), self._special.start, dtype=mx.int32),
            scores=mx.broadcast_to(first_only, (b, width)),
            lengths=mx.zeros((b, width), dtype=mx.int32),
            done=mx.zeros((b, width), dtype=mx.bool_),
        )
        banned = forbidden(self._decoder.embedding.weight.shape[0], self._special)
        tokens, parents = [], []
        seen, wait = deque[mx.array](), look_back()
        for _ in range(decoding.max_length):
            found, moving, origin = self._step(beams, state, banned)
            beams, state = _Beams(*found), state.moved(moving)
            mx.async_eval(beams, moving, origin)
            tokens.append(beams.tokens)
            parents.append(origin)
            seen.append(mx.all(beams.done))
            if len(seen) > wait and bool(seen.popleft()):
                break
        length = mx.maximum(beams.lengths, 1)
        mean = beams.scores / length**decoding.length_penalty
        return _read_back(tokens, parents, mx.argmax(mean, axis=-1))

    def _advance(
        self, beams: _Beams, state: DecoderState, banned: mx.array
    ) -> tuple[_Beams, Moving, mx.array]:
        """One token of every beam, and whom each one comes from."""
        # Compiled functions see plain tuples.
        beams, state = _Beams(*beams), DecoderState(*state)
        logits, state = self._decoder.step(
            beams.tokens.reshape(-1), state, self._shared, banned
        )
        beams, state, parents = _extend(beams, state, logits, self._special)
        return beams, state.moving, parents

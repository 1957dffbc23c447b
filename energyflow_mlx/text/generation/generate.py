"""Sentences from vectors: greedy, sampled, beam search.

Every step feeds one token per sentence through the decoder's state, so its cost does
not grow with the sentence. A step is compiled once for each way of choosing and number
of rows. Sentences advance together; rows that have ended are dropped each time half of
them have, and the batch stops when all have.
"""

from collections import deque
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.corrector import Corrector, Evidence, Guess
from energyflow_mlx.text.decoder import DecoderState, Moving, TCNDecoder
from energyflow_mlx.text.generation.beam import BeamSearch
from energyflow_mlx.text.generation.decoding import Decoding
from energyflow_mlx.text.generation.edits import LIKELIEST, Likely
from energyflow_mlx.text.generation.sampling import (
    draw,
    forbidden,
    look_back,
    token_weights,
    uniform_numbers,
)
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

# Fewest rows that a batch is cut down to: below, a step costs the same.
_LEAST_ROWS = 8

Choice = Callable[[mx.array, mx.array | None], mx.array]
Step = Callable[..., tuple[mx.array, mx.array, Moving]]


class Generator:
    """Generates sentences with one decoder; keeps its compiled steps.

    Args:
        decoder: The decoder; its weights may change between calls. Dropout never acts
            here.
        special: Start, end and padding token.
        shared: The blocks the decoder shares.
        corrector: What reads guesses; none = there are none to be read.
    """

    def __init__(
        self,
        decoder: TCNDecoder,
        special: SpecialIds,
        shared: Sequence[TCNBlock] = (),
        corrector: Corrector | None = None,
    ) -> None:
        self._decoder = decoder
        self._corrector = corrector
        self._special = special
        self._shared = shared
        self._steps: dict[tuple[float, int, float], Step] = {}
        self._beams = BeamSearch(decoder, special, shared)

    def __call__(
        self,
        z: mx.array | np.ndarray,
        decoding: Decoding,
        *,
        numbers: np.ndarray | None = None,
        guess: Guess | None = None,
        told: np.ndarray | None = None,
    ) -> np.ndarray:
        """Generate one sentence per vector.

        The start and padding tokens are never chosen. A sampled sentence depends on
        ``decoding.seed`` and on its number only: whoever splits a long list into
        batches gets the same sentences by passing the numbers of each batch's rows.

        Args:
            z: Sentence vectors, ``[B, E]``.
            decoding: The settings; corrections and samples are not done here.
            numbers: Number of each sentence, ``[B]``; none = 0 to B - 1.
            guess: What the sentences may be, NumPy arrays or MLX's; wants a corrector.
            told: Vectors that the guesses are compared with, ``[B, E]``; none = ``z``.

        Returns:
            Token ids, ``[B, max_length]`` int32: each row ends with the end token and
            then padding, or has no end token when ``max_length`` came first.
        """
        z = mx.array(z)
        shape = (z.shape[0], decoding.max_length)
        padded = np.full(shape, self._special.pad, dtype=np.int32)
        if z.shape[0] == 0:
            return padded
        evidence = None
        if guess is not None:
            evidence = self._evidence(guess, z if told is None else mx.array(told))
        if decoding.beams > 1:
            ids = self._beams(z, decoding, evidence)
            padded[:, : ids.shape[1]] = ids
            return padded
        uniform = None
        if decoding.temperature > 0.0:
            rows = np.arange(z.shape[0]) if numbers is None else numbers
            uniform = uniform_numbers(decoding.seed, rows, decoding.max_length)
        state = self._decoder.init_state(z, self._shared, evidence)
        self._fill(padded, state, self._step(decoding), uniform)
        return padded

    def likely(self, ids: np.ndarray, mask: np.ndarray, z: np.ndarray) -> Likely:
        """What is likely at each place of sentences, for edits of them.

        Args:
            ids: Sentences with start and end, ``[n, L]``.
            mask: 1 for real tokens, ``[n, L]``.
            z: Sentence vectors, ``[n, E]``.
        """
        tokens, real = mx.array(ids), mx.array(mask)
        features = self._decoder.features(
            tokens[:, :-1], real[:, :-1], mx.array(z), self._shared
        )
        size = self._decoder.embedding.weight.shape[0]
        logits = self._decoder.logits(features, forbidden(size, self._special))
        log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        best = _likeliest(log_p, LIKELIEST)
        after = mx.pad(tokens[:, 2:], [(0, 0), (0, 1)])
        found = [
            mx.take_along_axis(log_p, places, axis=-1).astype(mx.float32)
            for places in (best, tokens[:, 1:, None], after[..., None])
        ]
        top, own, following = (np.array(array) for array in found)
        return Likely(np.array(best), top, own[..., 0], following[..., 0])

    def _evidence(self, guess: Guess, z: mx.array) -> Evidence:
        """What the corrector reads in guesses at the sentences of ``z``."""
        assert self._corrector is not None, "guesses want a corrector"
        guess = Guess(*map(mx.array, guess))
        return self._corrector(self._decoder.embedding(guess.ids), guess, z)

    def _step(self, decoding: Decoding) -> Step:
        """The compiled step that chooses as the settings say."""
        key = (decoding.temperature, decoding.top_k, decoding.top_p)
        if key not in self._steps:
            weights = [self._decoder.state, [block.state for block in self._shared]]
            step = _step(self._decoder, self._special, self._shared, _choice(*key))
            self._steps[key] = mx.compile(step, inputs=weights)
        return self._steps[key]

    def _fill(
        self,
        padded: np.ndarray,
        state: DecoderState,
        step: Step,
        uniform: np.ndarray | None,
    ) -> None:
        """Write the sentences that begin at ``state`` into ``padded``, token by token.

        Whether rows have ended is read ``look_back`` steps late, so that the device has
        work while the host looks. A row that has ended only writes padding.
        """
        rows = np.arange(len(padded))
        token = mx.full(rows.shape, self._special.start, dtype=mx.int32)
        done = mx.zeros(rows.shape, dtype=mx.bool_)
        numbers = None if uniform is None else mx.array(uniform)
        banned = forbidden(self._decoder.embedding.weight.shape[0], self._special)
        chosen: list[mx.array] = []
        first, seen, wait = 0, deque[mx.array](), look_back()
        for place in range(padded.shape[1]):
            number = None if numbers is None else numbers[place]
            token, done, moving = step(token, done, state, banned, number)
            state = state.moved(moving)
            mx.async_eval(token, done, moving)
            chosen.append(token)
            seen.append(done)
            if len(seen) <= wait:
                continue
            kept = _rows_to_keep(np.array(seen.popleft()))
            if len(kept) == 0:
                break
            if len(kept) < len(rows):
                padded[rows, first : place + 1] = np.array(mx.stack(chosen, axis=1))
                first, chosen, rows = place + 1, [], rows[kept]
                picked = mx.array(kept)
                token, done, state = token[picked], done[picked], state.select(picked)
                numbers = None if numbers is None else numbers[:, picked]
                seen.clear()
        if chosen:
            ids = np.array(mx.stack(chosen, axis=1))
            padded[rows, first : first + ids.shape[1]] = ids


def _step(
    decoder: TCNDecoder,
    special: SpecialIds,
    shared: Sequence[TCNBlock],
    choose: Choice,
) -> Step:
    """One token of every row; returns what it changes."""

    def step(
        token: mx.array,
        done: mx.array,
        state: DecoderState,
        banned: mx.array,
        number: mx.array | None,
    ) -> tuple[mx.array, mx.array, Moving]:
        state = DecoderState(*state)  # compiled functions see plain tuples
        logits, state = decoder.step(token, state, shared, banned)
        token = mx.where(done, special.pad, choose(logits, number))
        return token, mx.logical_or(done, token == special.end), state.moving

    return step


def _choice(temperature: float, top_k: int, top_p: float) -> Choice:
    """What picks the tokens ``[B]`` of a step from its logits ``[B, V]``."""
    if temperature == 0.0:
        return lambda logits, number: mx.argmax(logits, axis=-1).astype(mx.int32)

    def sample(logits: mx.array, number: mx.array | None) -> mx.array:
        assert number is not None
        weights = token_weights(
            logits, temperature=temperature, top_k=top_k, top_p=top_p
        )
        return draw(weights, number)

    return sample


def _likeliest(log_p: mx.array, count: int) -> mx.array:
    """The ``count`` tokens ``[..., K]`` with the greatest of ``[..., V]``, in order.

    One after the other: on two CPU cores as fast as a partition, which has no order.
    """
    found = []
    for _ in range(count):
        found.append(mx.argmax(log_p, axis=-1, keepdims=True))
        lowest = mx.array(-mx.inf, log_p.dtype)
        log_p = mx.put_along_axis(log_p, found[-1], lowest, axis=-1)
    return mx.concatenate(found, axis=-1)


def _rows_to_keep(done: np.ndarray) -> np.ndarray:
    """Rows that a batch goes on with; none when all have ended.

    A batch is cut to a power of two, once that halves it: so few shapes occur. Rows
    that have ended fill it up.

    Args:
        done: Whether each row has ended, ``[B]``.
    """
    live = np.flatnonzero(~done)
    if len(live) == 0:
        return live
    size = max(_LEAST_ROWS, 1 << (len(live) - 1).bit_length())
    if size > len(done) // 2:
        return np.arange(len(done))
    ended = np.flatnonzero(done)[: size - len(live)]
    return np.concatenate([live, ended])

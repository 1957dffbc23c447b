"""Choosing the next token of each sentence from its logits.

Sampling inverts the distribution function with one uniform number per sentence and
step, drawn on the host from a counter: sentence ``i`` gets the same numbers whatever
batch it is in, and on every backend.
"""

import mlx.core as mx
import numpy as np

from energyflow_mlx.ops import fast_exp
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

# A uniform number must stay below 1 after its product with a float32 sum is rounded.
_UNIFORM_BITS = 20


def forbidden(vocab_size: int, special: SpecialIds) -> mx.array:
    """What bans the start and padding tokens from logits it is added to, ``[V]``.

    Minus infinity for these two, else 0.
    """
    token = mx.arange(vocab_size)
    banned = mx.logical_or(token == special.start, token == special.pad)
    return mx.where(banned, -mx.inf, 0.0)


def look_back() -> int:
    """Steps after which the host looks whether a row has ended.

    On a GPU two: it must have steps to do while the host waits for an older one. On
    the CPU none: host and device are the same cores, and a step past the end is lost.
    """
    return 0 if mx.default_device() == mx.Device(mx.cpu) else 2


def _mix(state: np.ndarray) -> np.ndarray:
    """Scramble uint64 counters: the output function of SplitMix64 (Steele, 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform_numbers(seed: int, rows: np.ndarray, steps: int) -> np.ndarray:
    """Uniform numbers in ``[0, 1)``, one per step and row; a pure function of both.

    Args:
        seed: Any integer from 0 to 2^64 - 1.
        rows: Number of each sentence, ``[B]`` integers.
        steps: Steps T.

    Returns:
        ``[T, B]`` float32.
    """
    step = np.arange(steps, dtype=np.uint64)[:, None]
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        start = _mix(np.array([seed], dtype=np.uint64) + golden)
        stream = _mix(start + rows.astype(np.uint64) * golden)
        bits = _mix(stream[None, :] + (step + np.uint64(1)) * golden)
    top = bits >> np.uint64(64 - _UNIFORM_BITS)
    return (top.astype(np.float64) / 2**_UNIFORM_BITS).astype(np.float32)


def _keep_top_k(weights: mx.array, top_k: int) -> mx.array:
    """Zero all but the ``top_k`` largest weights of each row."""
    best = mx.argpartition(-weights, top_k - 1, axis=-1)[:, :top_k]
    kept = mx.take_along_axis(weights, best, axis=-1)
    return mx.put_along_axis(mx.zeros_like(weights), best, kept, axis=-1)


def _keep_top_p(weights: mx.array, top_p: float, positive: int) -> mx.array:
    """Zero all but the smallest set of tokens that has ``top_p`` of the weight.

    A token stays when those before it, in falling order, hold less than ``top_p``.
    No more than ``positive`` weights of a row matter, so only those are sorted.
    """
    if positive < weights.shape[-1]:
        falling = mx.sort(mx.topk(weights, positive, axis=-1), axis=-1)[:, ::-1]
    else:
        falling = mx.sort(weights, axis=-1)[:, ::-1]
    total = mx.sum(weights, axis=-1, keepdims=True)
    before = mx.cumsum(falling, axis=-1) - falling
    inside = before < top_p * total
    smallest = mx.min(mx.where(inside, falling, mx.inf), axis=-1, keepdims=True)
    return mx.where(weights >= smallest, weights, 0.0)


def token_weights(
    logits: mx.array, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> mx.array:
    """Unnormalised probabilities of the next token under the sampling settings.

    Args:
        logits: ``[B, V]``.
        temperature: Divides the logits, above 0.
        top_k: Keep that many likeliest tokens; 0 keeps all.
        top_p: Then keep the likeliest tokens that hold this share; 1 keeps all.

    Returns:
        ``[B, V]`` float32, largest of each row 1, zero where excluded.
    """
    wide = logits.astype(mx.float32) * (1.0 / temperature)
    peak = mx.max(wide, axis=-1, keepdims=True)
    weights = mx.where(mx.isneginf(wide), 0.0, fast_exp(wide - peak))
    if 0 < top_k < logits.shape[-1]:
        weights = _keep_top_k(weights, top_k)
    if top_p < 1.0:
        weights = _keep_top_p(weights, top_p, top_k or logits.shape[-1])
    return weights


def draw(weights: mx.array, uniform: mx.array) -> mx.array:
    """Draw one token per row: the first whose cumulative weight exceeds the number.

    Args:
        weights: ``[B, V]``, not negative, positive somewhere in each row.
        uniform: ``[B]`` in ``[0, 1)``.

    Returns:
        ``[B]`` int32; never a token of weight zero.
    """
    cumulative = mx.cumsum(weights, axis=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return mx.argmax(cumulative > threshold, axis=-1).astype(mx.int32)


@mx.compile
def log_probabilities(logits: mx.array) -> mx.array:
    """Log softmax of ``[B, V]`` over its last axis, float32."""
    shifted = logits - mx.max(logits, axis=-1, keepdims=True)
    return shifted - mx.log(mx.sum(fast_exp(shifted), axis=-1, keepdims=True))

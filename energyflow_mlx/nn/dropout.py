"""Dropout from explicit random keys, so that a training step is a pure function.

``mlx.nn.Dropout`` draws from a global generator, whose state would have to be carried
through every compiled step and checkpoint. Here the caller hands in a key; a key is
wanted exactly when a module is training and its rate is above zero.
"""

from collections.abc import Iterator

import mlx.core as mx


def dropout(x: mx.array, rate: float, key: mx.array) -> mx.array:
    """Zero each element with probability ``rate`` and scale the rest by ``1/(1-rate)``.

    Args:
        x: Any shape.
        rate: Probability in ``[0, 1)``.
        key: Random key; the same key gives the same pattern.

    Returns:
        Same shape and dtype as ``x``.
    """
    keep = mx.random.bernoulli(1.0 - rate, x.shape, key=key)
    return mx.where(keep, x * (1.0 / (1.0 - rate)), mx.zeros_like(x))


def dropout_factors(shape: tuple[int, ...], rate: float, key: mx.array) -> mx.array:
    """Return what :func:`dropout` multiplies by, 0 or ``1/(1-rate)``, float32."""
    keep = mx.random.bernoulli(1.0 - rate, shape, key=key)
    return mx.where(keep, 1.0 / (1.0 - rate), 0.0)


def drop_tokens(mask: mx.array, rate: float, key: mx.array) -> mx.array:
    """Hide tokens by masking them, each with probability ``rate``.

    The first token of a sentence stays, so that no sentence becomes empty.

    Args:
        mask: 1 for real tokens, ``[B, L]``.
        rate: Probability in ``[0, 1)``.
        key: Random key; the same key hides the same tokens.

    Returns:
        The mask of the tokens that are left, ``[B, L]``.
    """
    if rate == 0.0:
        return mask
    stays = mx.random.bernoulli(p=1.0 - rate, shape=mask.shape, key=key)
    stays = mx.logical_or(stays, mx.arange(mask.shape[1]) == 0)
    return mask * stays.astype(mask.dtype)


def check_rate(name: str, rate: float) -> float:
    """Return ``rate`` if it is a probability below one.

    Raises:
        ValueError: It is not.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"[{name}] dropout must be in [0, 1), got {rate}.")
    return rate


def active_key(
    name: str, *, training: bool, rate: float, key: mx.array | None
) -> mx.array | None:
    """Return the key to drop with, or None when nothing is to be dropped.

    Raises:
        ValueError: Training with a rate above zero, but no key was given.
    """
    if not training or rate == 0.0:
        return None
    if key is None:
        raise ValueError(
            f"[{name}] key must be given in training with dropout {rate}, got None; "
            "call .eval() for inference."
        )
    return key


def key_stream(key: mx.array | None) -> Iterator[mx.array | None]:
    """Yield endless independent keys from one, or None for ever if there is none."""
    while True:
        if key is None:
            yield None
        else:
            key, fresh = mx.random.split(key)
            yield fresh

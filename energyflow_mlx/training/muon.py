"""Muon: steps of matrices whose singular values are made alike.

    m = b m + (1 - b) f g
    u = b m + (1 - b) f g                              Nesterov's look ahead
    p = p - lr (0.2 sqrt(max(R, C)) orthogonal(u) + decay p)

for a matrix ``p [R, C]``; ``orthogonal(U S V^T)`` is about ``U V^T``. A gradient moves
few directions of a matrix and hardly the others; this moves all alike. The factor gives
a step the size of AdamW's, near 0.2 for each number, so that learning rate and decay of
one serve the other.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(iteration and its coefficients); Liu et al., "Muon is Scalable for LLM Training", 2025,
section 2.2 (factor and decay).
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.ops import on_gpu
from energyflow_mlx.ops.adamw import Rates

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEP = 0.2


class Muon(NamedTuple):
    """What Muon keeps of matrices of one shape; float32.

    Attributes:
        p: The matrices, ``[N, R, C]``.
        m: Their momentum, same shape.
        t: Updates so far, scalar.
    """

    p: mx.array
    m: mx.array
    t: mx.array


def orthogonal(matrices: mx.array) -> mx.array:
    """The nearest matrices with orthonormal rows or columns, approximately.

    Newton-Schulz iteration: X = a X + (b A + c A A) X with A = X X^T, from X of norm 1.
    The singular values end between 0.7 and 1.2; those of 0 stay 0.

    Args:
        matrices: ``[N, R, C]``; on a GPU the products are in bfloat16.

    Returns:
        ``[N, R, C]`` float32.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.swapaxes(1, 2) if is_tall else matrices
    squares = mx.sum(mx.square(x), axis=(1, 2), keepdims=True)
    x = x * mx.rsqrt(mx.maximum(squares, 1e-30))
    if on_gpu():
        x = x.astype(mx.bfloat16)
    for _ in range(_ITERATIONS):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.swapaxes(1, 2) if is_tall else x).astype(mx.float32)


def muon(
    state: Muon, gradients: mx.array, rates: Rates, momentum: float, decay: float
) -> Muon:
    """One update of matrices of one shape; nothing changes where nothing moves.

    Args:
        state: Matrices, momentum, count.
        gradients: ``[N, R, C]`` float32.
        rates: Of this update.
        momentum: Its decay rate ``b``, in [0, 1).
        decay: Decoupled weight decay.
    """
    p, m, t = state
    moves = rates.moves
    # Not finite where nothing moves, perhaps: no product with zero may see it.
    g = mx.where(moves, gradients, 0.0) * mx.where(moves, rates.factor, 0.0)
    lr = mx.where(moves, rates.lr, 0.0)
    m = mx.where(moves, momentum, 1.0) * m + (1 - momentum) * g
    ahead = momentum * m + (1 - momentum) * g
    size = _STEP * max(p.shape[1:]) ** 0.5
    p = (1.0 - lr * decay) * p - lr * size * orthogonal(ahead)
    return Muon(p, m, t + moves)

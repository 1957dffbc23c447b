"""Exponential moving average of the weights: what a run measures and keeps.

It is also what an objective may take for a target that moves slowly.

    a = a + (1 - d) (p - a),   d = min(decay, (1 + n) / (10 + n))

p are the weights after an update and n the updates averaged before it, so that the
first ones weigh little for long. Where an update was skipped, because its gradient was
not finite, neither a nor n changes.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging",
1992; the warm-up is that of TensorFlow's ``ExponentialMovingAverage``.
"""

from collections.abc import Collection
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.training.optimizer import Arrays


class Average(NamedTuple):
    """Averaged weights.

    Attributes:
        weights: By path, or in packs by name, float32; empty where a run keeps none.
        updates: How many updates are in them, scalar float32.
    """

    weights: Arrays
    updates: mx.array


def init_average(parameters: Arrays, paths: Collection[str], decay: float) -> Average:
    """Average of no update: the weights themselves.

    Args:
        parameters: Every parameter by path.
        paths: Those that train.
        decay: 0 = no average is kept.
    """
    chosen = sorted(paths) if decay > 0 else []
    return Average({path: parameters[path] for path in chosen}, mx.zeros(()))


def next_average(
    average: Average, parameters: Arrays, moves: mx.array, decay: float
) -> Average:
    """Average with one more update in it; see the module.

    Args:
        average: Of the updates before.
        parameters: Weights after the update, under the names of the average.
        moves: Whether the update was made, scalar bool.
        decay: Decay that the warm-up ends at.
    """
    if not average.weights:
        return average
    n = average.updates
    kept = mx.minimum(decay, (1 + n) / (10 + n))
    share = mx.where(moves, 1.0 - kept, 0.0)
    weights = {
        name: a + share * (parameters[name] - a) for name, a in average.weights.items()
    }
    return Average(weights, n + moves)

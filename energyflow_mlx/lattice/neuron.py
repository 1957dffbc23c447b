"""The neuron that every cell of the cube shares.

Ported from ``SimpleNeuron`` of the reference system. Positions go in as they are,
already in [-1, 1], and all twelve coordinate features are used. What is computed with
its weights is in ``ops.flow_carry``.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops.flow_carry import NeuronWeights

_COORDINATE_FEATURES = 12


def _normal_linear(dim_in: int, dim_out: int) -> nn.Linear:
    """Linear layer, normal with variance ``2 / dim_out``, bias 0."""
    layer = nn.Linear(dim_in, dim_out)
    layer.weight = mx.random.normal((dim_out, dim_in), scale=math.sqrt(2 / dim_out))
    layer.bias = mx.zeros((dim_out,))
    return layer


class SimpleNeuron(nn.Module):
    """Features of a flow from where it is and what it carries."""

    def __init__(self, hidden: int, features: int) -> None:
        """Create the neuron with ``hidden`` inner channels."""
        super().__init__()
        self.coordinates = _normal_linear(3, _COORDINATE_FEATURES)
        self.layers = [
            _normal_linear(_COORDINATE_FEATURES + 1, hidden),
            _normal_linear(hidden, hidden),
            _normal_linear(hidden, features),
        ]
        self.norms = [nn.LayerNorm(hidden), nn.LayerNorm(hidden)]

    def fused(self) -> NeuronWeights:
        """All weights; the first two linear layers, nothing between them, are one."""
        first, *rest = self.layers
        w_place, w_energy = mx.split(first.weight, [_COORDINATE_FEATURES], axis=1)
        entry = mx.concatenate([w_place @ self.coordinates.weight, w_energy], axis=1)
        bias = first.bias + self.coordinates.bias @ w_place.T
        pairs = [(layer.weight, layer.bias) for layer in (*self.norms, *rest)]
        norm_0, norm_1, layer_1, layer_2 = pairs
        return NeuronWeights(entry, bias, *norm_0, *layer_1, *norm_1, *layer_2)

"""The neuron that every cell of the cube shares.

Ported from ``SimpleNeuron`` of the reference system. Positions go in as they are,
already in [-1, 1], and all twelve coordinate features are used.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.activations import gelu

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

    def __call__(self, position: mx.array, energy: mx.array) -> mx.array:
        """Compute the features of N flows.

        Args:
            position: Inside the cube, ``[N, 3]``.
            energy: ``[N, 1]``.

        Returns:
            ``[N, features]``.
        """
        x = mx.concatenate([self.coordinates(position), energy], axis=-1)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            # Contiguous: fused with the norm's broadcasts the GELU would not vectorise.
            x = gelu(mx.contiguous(norm(layer(x))))
        return self.layers[-1](x)

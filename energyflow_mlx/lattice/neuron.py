"""The neuron that every cell of the cube shares.

Ported from ``SimpleNeuron`` of the reference system. Positions go in as they are,
already in [-1, 1], and all twelve coordinate features are used.
"""

import math
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops import gelu

_COORDINATE_FEATURES = 12


def _normal_linear(dim_in: int, dim_out: int) -> nn.Linear:
    """Linear layer, normal with variance ``2 / dim_out``, bias 0."""
    layer = nn.Linear(dim_in, dim_out)
    layer.weight = mx.random.normal((dim_out, dim_in), scale=math.sqrt(2 / dim_out))
    layer.bias = mx.zeros((dim_out,))
    return layer


class FusedEntry(NamedTuple):
    """The neuron's first two linear layers, which have nothing between them, as one.

    Attributes:
        weight: From position and energy, ``[hidden, 4]``.
        bias: ``[hidden]``.
    """

    weight: mx.array
    bias: mx.array


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

    def fused(self) -> FusedEntry:
        """Coordinates and first layer as one, for any number of calls."""
        w_place, w_energy = mx.split(
            self.layers[0].weight, [_COORDINATE_FEATURES], axis=1
        )
        return FusedEntry(
            mx.concatenate([w_place @ self.coordinates.weight, w_energy], axis=1),
            self.layers[0].bias + self.coordinates.bias @ w_place.T,
        )

    def __call__(
        self, position: mx.array, energy: mx.array, entry: FusedEntry | None = None
    ) -> mx.array:
        """Compute the features of N flows.

        Args:
            position: Inside the cube, ``[N, 3]``.
            energy: ``[N, 1]``.
            entry: What ``fused`` gives; None computes it now.

        Returns:
            ``[N, features]``.
        """
        entry = entry or self.fused()
        x = mx.concatenate([position, energy], axis=-1)
        x = mx.addmm(entry.bias, x, entry.weight.T)
        x = self._activate(0, x)
        x = self._activate(1, self.layers[1](x))
        return self.layers[2](x)

    def _activate(self, index: int, x: mx.array) -> mx.array:
        # Contiguous: fused with the norm's broadcasts the GELU would not vectorise.
        return gelu(mx.contiguous(self.norms[index](x)))

"""How a vector reaches a token network: added at its input, or modulating its blocks.

Sentence vectors have unit length, so their elements are near ``1/sqrt(E)``. Added
conditions multiply them by ``sqrt(E)``: under Adam a layer fed with the bare vector
learns ``sqrt(E)`` times slower, and never catches up. Modulation takes the vector as
it is: there the slow start is an advantage (it over-fits otherwise).

FiLM: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer",
AAAI 2018, section 3.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops import linear


def _checked(name: str, z: mx.array, projection: nn.Linear) -> mx.array:
    """Check the width of ``z`` and return it in the weights' dtype."""
    latent_dim = projection.weight.shape[1]
    if z.ndim != 2 or z.shape[-1] != latent_dim:
        raise ValueError(
            f"[{name}] z must be [B, E] with E = {latent_dim}, got {list(z.shape)}."
        )
    return z.astype(projection.weight.dtype)


def _projected(layer: nn.Linear, z: mx.array) -> mx.array:
    return linear(z, layer.weight, layer.bias)


class AdditiveConditioning(nn.Module):
    """``Linear(sqrt(E) z)``, to be added to every position of a sequence."""

    def __init__(self, latent_dim: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(latent_dim, dim)

    def __call__(self, z: mx.array) -> mx.array:
        """Project ``z [B, E]`` to ``[B, D]``.

        Raises:
            ValueError: ``z`` has another width.
        """
        z = _checked("AdditiveConditioning", z, self.projection)
        return _projected(self.projection, z * math.sqrt(z.shape[-1]))


class FiLMConditioning(nn.Module):
    """Scale and shift of a block's normalised input, computed from a vector.

    Weights start at zero, so that a new block is unmodulated.
    """

    def __init__(self, latent_dim: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(latent_dim, 2 * dim)
        self.projection.weight = mx.zeros_like(self.projection.weight)
        self.projection.bias = mx.zeros_like(self.projection.bias)

    def __call__(self, z: mx.array) -> tuple[mx.array, mx.array]:
        """Return scale and shift, each ``[B, 1, D]``, of ``z [B, E]``.

        Raises:
            ValueError: ``z`` has another width.
        """
        both = _projected(
            self.projection, _checked("FiLMConditioning", z, self.projection)
        )
        scale, shift = mx.split(both[:, None, :], 2, axis=-1)
        return scale, shift

"""EnergyFlow: the one owner of every layer, the shared blocks included.

Encoder and decoder may share blocks. A layer reachable by two attribute paths
would show twice in the parameter tree and get its gradient on one path only, so
the shared blocks live here, once, and are passed to both as call arguments.
"""

from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.text.decoder import TCNDecoder
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder


class EnergyFlow(nn.Module):
    """Text encoder, energy lattice and vector-to-text decoder, as the task needs them.

    Args:
        encoder: Maps ids to vectors ``[B, E]``, or to surfaces ``[B, S]`` when there
            is a lattice behind it; none for vectors alone.
        decoder: Maps vectors ``[B, E]`` and earlier ids to next-token logits.
        shared: Blocks that run last in both; may be empty.
        lattice: Sends vectors or surfaces through the cube.
    """

    def __init__(
        self,
        encoder: TCNEncoder | TransformerEncoder | None,
        decoder: TCNDecoder | None,
        shared: Iterable[TCNBlock] = (),
        lattice: EnergyLattice | None = None,
    ) -> None:
        super().__init__()
        if encoder is not None:
            self.encoder = encoder
        if decoder is not None:
            self.decoder = decoder
        if lattice is not None:
            self.lattice = lattice
        self.shared = list(shared)

    def encode(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Student vectors ``[B, E]``, not normalised.

        Args:
            ids: Token ids, ``[B, L]`` int32.
            mask: 1 for real tokens, 0 for padding, ``[B, L]``.
            key: Random key of the dropouts, in training.
        """
        if "lattice" in self:
            return self.lattice.from_surface(self.encode_surface(ids, mask)).vector
        return self.encoder(ids, mask, shared=self.shared, key=key)

    def encode_surface(
        self, ids: mx.array, mask: mx.array, *, key: mx.array | None = None
    ) -> mx.array:
        """Surfaces ``[B, H, W]`` that the sentences launch from, before any lattice.

        Arguments as in ``encode``.
        """
        cube = self.lattice.config.cube
        surface = self.encoder(ids, mask, shared=self.shared, key=key)
        return surface.reshape(-1, cube.height, cube.width)

    def decode_features(
        self,
        ids: mx.array,
        mask: mx.array,
        z: mx.array,
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Decoder features before the output projection, ``[B, L, D]``.

        Args:
            ids: Input ids under teacher forcing, ``[B, L]`` int32.
            mask: 1 for real tokens, ``[B, L]``.
            z: Condition, ``[B, E]``.
            key: Random key of the dropouts, in training.
        """
        return self.decoder.features(ids, mask, z, shared=self.shared, key=key)

    def __call__(self, ids: mx.array, mask: mx.array) -> mx.array:
        """Student vectors ``[B, E]``; the same as ``encode`` without dropout."""
        return self.encode(ids, mask)


def flat_parameters(model: nn.Module) -> dict[str, mx.array]:
    """Every parameter by its path, e.g. ``"encoder.embedding.weight"``."""
    return dict(tree_flatten(model.parameters()))


def install_parameters(model: nn.Module, parameters: dict[str, mx.array]) -> None:
    """Put parameters, given by path, into the model."""
    model.update(tree_unflatten(list(parameters.items())))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each top-level part, and of all together."""
    counts: dict[str, int] = {}
    for path, value in flat_parameters(model).items():
        part = path.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + value.size
    return {**counts, "total": sum(counts.values())}

"""Corrector: what a guess at a sentence, and the guess's vector, tell the decoder.

The decoder reads a sentence from its vector t. Given a guess with the vector g it can
do better: where g misses t, words of the guess are wrong, and the rest may stay. After
Morris et al., "Text Embeddings Reveal (Almost) As Much As Text", 2023, section 3. There
a Transformer attends to the guess; here convolutions read it, and its features are
added at the positions where its words would be predicted.
"""

import math
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.conditioning import AdditiveConditioning, FiLMConditioning
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.ops.tcn_block import Film
from energyflow_mlx.text.blocks import BlockList, run_blocks

DILATIONS = (1, 2, 4)


class Guess(NamedTuple):
    """Sentences that may be wrong; NumPy arrays while they are prepared.

    Attributes:
        ids: Token ids with start and end, ``[B, G]`` int32.
        mask: 1 for real tokens, ``[B, G]`` float32.
        vector: Their vectors, ``[B, E]``.
    """

    ids: mx.array
    mask: mx.array
    vector: mx.array


class Evidence(NamedTuple):
    """What is added in the decoder, in place of nothing where there is no guess.

    Attributes:
        condition: Added to each token, ``[B, D]``.
        output_condition: Added before the final norm, ``[B, D]``.
        films: Added to each block's scale and shift, ``[B, 1, D]``; none without FiLM.
        tokens: Added at each position, ``[B, G, D]``: the features of the guess's
            token that would be predicted there.
    """

    condition: mx.array
    output_condition: mx.array
    films: list[Film]
    tokens: mx.array

    def at(self, length: int) -> mx.array:
        """``tokens`` of the first ``length`` positions, zero beyond the guess."""
        missing = length - self.tokens.shape[1]
        if missing <= 0:
            return self.tokens[:, :length]
        return mx.pad(self.tokens, [(0, 0), (0, missing), (0, 0)])

    def repeat(self, count: int) -> "Evidence":
        """Each row ``count`` times, one after the other."""
        condition, output, films, tokens = self
        wide = [tuple(mx.repeat(a, count, axis=0) for a in film) for film in films]
        flat = (mx.repeat(a, count, axis=0) for a in (condition, output, tokens))
        condition, output, tokens = flat
        return Evidence(condition, output, wide, tokens)


class Corrector(nn.Module):
    """Reads guesses for a decoder.

    e = Linear(sqrt(4 E) [t, g, t - g, sqrt(E) t g])
    r = Linear(LN(blocks(Emb(guess) + e)))

    e reaches the decoder wherever t does, through a linear map for each place, and
    ``r_{l+1}`` is added at position l, which predicts token l + 1. These maps start at
    zero: with a fresh corrector the decoder does as it did without one.
    """

    def __init__(self, latent_dim: int, blocks: BlockList, *, films: int) -> None:
        """Create a corrector.

        Args:
            latent_dim: Width E of the sentence vectors.
            blocks: Its blocks, not causal; none of them is shared.
            films: Blocks of the decoder that a vector modulates; 0 = none.

        Raises:
            ValueError: The blocks are causal or shared, or have a context.
        """
        super().__init__()
        if blocks.causal or blocks.shared or blocks.context:
            raise ValueError(
                "[Corrector] blocks must be its own, not causal and without context."
            )
        dim = blocks.dim
        self.evidence = AdditiveConditioning(4 * latent_dim, dim)
        self.blocks: list[TCNBlock] = list(blocks)
        self.norm = nn.LayerNorm(dim)
        self.tokens = _zero_linear(dim)
        self.condition = _zero_linear(dim)
        self.output_condition = _zero_linear(dim)
        self.films = [FiLMConditioning(dim, dim) for _ in range(films)]

    def __call__(
        self,
        tokens: mx.array,
        guess: Guess,
        z: mx.array,
        *,
        key: mx.array | None = None,
    ) -> Evidence:
        """Compare guesses with what they should say.

        Args:
            tokens: Features of the guesses' tokens, ``[B, G, D]``.
            guess: The guesses; ``G >= 1``.
            z: Vectors of the sentences to be written, ``[B, E]``.
            key: Random key of the dropouts, in training.

        Returns:
            What is added in the decoder.

        Raises:
            ValueError: Guesses and vectors differ in number or width.
        """
        g = guess.vector
        if g.shape != z.shape or len(guess.ids) != len(z):
            raise ValueError(
                f"[Corrector] guess must have vectors {list(z.shape)} like z, got "
                f"{list(g.shape)}."
            )
        # Elements of unit vectors are near 1/sqrt(E), those of their product near 1/E.
        product = z * g * math.sqrt(z.shape[-1])
        e = self.evidence(mx.concatenate([z, g, z - g, product], axis=-1))  # [B, D]
        x = (tokens + e[:, None]) * guess.mask[..., None].astype(tokens.dtype)
        x = run_blocks(self.blocks, x, guess.mask, key=key)
        read = self.tokens(self.norm(x)) * guess.mask[..., None].astype(x.dtype)
        bare = e * (1.0 / math.sqrt(e.shape[-1]))
        return Evidence(
            condition=self.condition(e),
            output_condition=self.output_condition(e),
            films=[film(bare) for film in self.films],
            tokens=read[:, 1:],
        )


def _zero_linear(dim: int) -> nn.Linear:
    """Linear map of D numbers that starts at zero."""
    layer = nn.Linear(dim, dim)
    layer.weight = mx.zeros_like(layer.weight)
    layer.bias = mx.zeros_like(layer.bias)
    return layer

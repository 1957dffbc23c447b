"""What the whole sentence says, told to each of its tokens.

Convolutions reach a few tokens far. The mean over a sentence reaches all of it, at the
cost of one product a sentence, and lets a short stack know the rest of a long one.

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3: squeeze by
the mean over all positions, then excite. Here what comes of it is added in place of a
gate that multiplies.
"""

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops import linear, masked_mean


class SentenceContext(nn.Module):
    """Adds a linear map of the sentence's mean to each real token.

    y[b,l] = mask[b,l] (x[b,l] + W LN(mean_m(x[b,m])) + c)

    The mean is over real tokens. W and c start at zero, without a random draw: a
    network with a new context gives what it gives without one.
    """

    def __init__(self, dim: int) -> None:
        """Create the layer for tokens of width ``dim``."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.weight = mx.zeros((dim, dim))
        self.bias = mx.zeros(dim)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Add the context.

        Args:
            x: Token features, ``[B, L, D]``; float32, float16 or bfloat16.
            mask: 1 for real tokens, ``[B, L]``.

        Returns:
            ``[B, L, D]``, in ``x.dtype``, zero at padding.

        Raises:
            ValueError: ``mask`` is not ``x.shape[:2]``.
        """
        said = self.norm(masked_mean(x, mask))  # [B, D]
        told = linear(said, self.weight, self.bias)  # [B, D]
        return (x + told[:, None]) * mask[..., None].astype(x.dtype)

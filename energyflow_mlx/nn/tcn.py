"""Temporal convolution block: the one sequence-mixing layer of encoder and decoder.

y = mask * (x + conv2(gelu(conv1(film(LN(x))))))

``conv1`` has ``kernel_size`` taps ``dilation`` apart and is causal unless asked
otherwise; ``conv2`` has one tap, so it is a matrix product per token.
After Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent
Networks for Sequence Modeling", 2018, with pre-normalisation.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.dropout import active_key, check_rate, dropout
from energyflow_mlx.ops import causal_conv1d, layer_norm, linear

Film = tuple[mx.array, mx.array]

_LAYER_NORM_EPS = 1e-5


def receptive_field(kernel_size: int, dilations: Sequence[int]) -> int:
    """Tokens that one output of a stack can see, itself included.

    R = 1 + (kernel_size - 1) * sum(dilations)
    """
    return 1 + (kernel_size - 1) * sum(dilations)


class BlockWeights(NamedTuple):
    """Arrays of one block, in the layout its body uses."""

    norm_weight: mx.array  # [D]
    norm_bias: mx.array  # [D]
    conv1_weight: mx.array  # [H, K, D]
    conv1_bias: mx.array  # [H]
    conv2_weight: mx.array  # [D, H]
    conv2_bias: mx.array  # [D]


def normalized_input(x: mx.array, weights: BlockWeights, film: Film | None) -> mx.array:
    """Layer-normalise the last axis of ``x`` and apply FiLM, if there is one."""
    u = layer_norm(x, weights.norm_weight, weights.norm_bias, _LAYER_NORM_EPS)
    if film is None:
        return u
    scale, shift = film
    return u * (1.0 + scale) + shift


def tcn_branch(
    x: mx.array,
    mask: mx.array,
    weights: BlockWeights,
    film: Film | None,
    *,
    dilation: int,
    causal: bool,
    gelu: Callable[[mx.array], mx.array],
) -> mx.array:
    """Compute the block's residual branch: norm, convolution, GELU, projection.

    Args:
        x: ``[B, L, D]``.
        mask: ``[B, L]``; read only when not causal.
        weights: Arrays of the block.
        film: Scale and shift, each ``[B, 1, D]``.
        dilation: Distance between taps in tokens.
        causal: Whether a token sees only itself and earlier ones.
        gelu: Activation.

    Returns:
        ``[B, L, D]``, not yet masked.
    """
    u = normalized_input(x, weights, film)
    if causal:
        h = causal_conv1d(u, weights.conv1_weight, weights.conv1_bias, dilation)
    else:
        # A normalised zero is the norm's bias, so padding must be blanked again before
        # a later neighbour is read. Centring is the causal result taken `ahead` later.
        ahead = (weights.conv1_weight.shape[1] - 1) // 2 * dilation
        u = mx.pad(u * mask[..., None].astype(u.dtype), [(0, 0), (0, ahead), (0, 0)])
        h = causal_conv1d(u, weights.conv1_weight, weights.conv1_bias, dilation)
        h = h[:, ahead:]
    h = gelu(h)  # [B, L, H]
    return linear(h, weights.conv2_weight, weights.conv2_bias)


class TCNBlock(nn.Module):
    """Residual block of a temporal convolution network."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel_size: int,
        dilation: int,
        *,
        causal: bool,
        dropout: float,
        gelu: str,
    ) -> None:
        """Create a block.

        Args:
            dim: Width D of its input and output.
            hidden: Width H between the convolutions.
            kernel_size: Taps K of the first convolution.
            dilation: Distance between taps in tokens.
            causal: Whether a token sees only itself and earlier ones.
            dropout: Rate on the branch, in training.
            gelu: ``"exact"`` or ``"tanh"``.

        Raises:
            ValueError: A size is not positive, or the kernel is even and not causal.
        """
        super().__init__()
        for name, value in (
            ("dim", dim),
            ("hidden", hidden),
            ("kernel_size", kernel_size),
            ("dilation", dilation),
        ):
            if value < 1:
                raise ValueError(f"[TCNBlock] {name} must be at least 1, got {value}.")
        if not causal and kernel_size % 2 == 0:
            raise ValueError(
                "[TCNBlock] kernel_size must be odd when not causal, "
                f"got {kernel_size}."
            )
        self.norm = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)
        self.conv1 = _Projection((hidden, kernel_size, dim), fan_in=kernel_size * dim)
        # A tenth of the usual scale: a deep stack starts near the identity.
        self.conv2 = _Projection((dim, hidden), fan_in=hidden, gain=0.1)
        self.dilation = dilation
        self.causal = causal
        self._dropout = check_rate("TCNBlock", dropout)
        self._gelu = activation(gelu)

    @property
    def dim(self) -> int:
        """Width of input and output."""
        return self.conv2.weight.shape[0]

    @property
    def kernel_size(self) -> int:
        """Taps of the first convolution."""
        return self.conv1.weight.shape[1]

    def weights(self) -> BlockWeights:
        """Return the block's arrays as they are now."""
        return BlockWeights(
            self.norm.weight,
            self.norm.bias,
            self.conv1.weight,
            self.conv1.bias,
            self.conv2.weight,
            self.conv2.bias,
        )

    def __call__(
        self,
        x: mx.array,
        mask: mx.array,
        film: Film | None = None,
        *,
        key: mx.array | None = None,
    ) -> mx.array:
        """Apply the block.

        Args:
            x: ``[B, L, D]``.
            mask: 1 for real tokens, ``[B, L]``; padded rows of the result are zero.
            film: Scale and shift of the normalised input, each ``[B, 1, D]``.
            key: Random key, wanted in training when the block has dropout.

        Returns:
            ``[B, L, D]``, in ``x.dtype``.

        Raises:
            ValueError: Shapes do not fit, or a wanted key is missing.
        """
        self._check(x, mask)
        branch = tcn_branch(
            x,
            mask,
            self.weights(),
            film,
            dilation=self.dilation,
            causal=self.causal,
            gelu=self._gelu,
        )
        key = active_key(
            "TCNBlock", training=self.training, rate=self._dropout, key=key
        )
        if key is not None:
            branch = dropout(branch, self._dropout, key)
        return (x + branch) * mask[..., None].astype(x.dtype)

    def init_state(self, batch_size: int) -> mx.array:
        """Return the state before the first token, ``[B, (K-1)*dilation, D]``.

        It holds the normalised inputs that later tokens will still look at; zeros stand
        for the time before the sentence, as the convolution's padding does.
        """
        past = (self.kernel_size - 1) * self.dilation
        return mx.zeros((batch_size, past, self.dim), dtype=self.conv1.weight.dtype)

    def step(
        self, x: mx.array, state: mx.array, film: Film | None = None
    ) -> tuple[mx.array, mx.array]:
        """Apply the block to one more token of each sentence.

        Args:
            x: Features of the token, ``[B, D]``.
            state: What :meth:`init_state` or the last step returned.
            film: As in the call.

        Returns:
            ``[B, D]`` and the next state.

        Raises:
            ValueError: The block is not causal.
        """
        if not self.causal:
            raise ValueError("[TCNBlock] step needs a causal block.")
        weights = self.weights()
        u = normalized_input(x[:, None, :], weights, film)  # [B, 1, D]
        window = mx.concatenate([state, u], axis=1)
        taps = window[:, :: self.dilation].reshape(x.shape[0], -1)  # [B, K*D]
        flat = weights.conv1_weight.reshape(weights.conv1_weight.shape[0], -1)
        h = self._gelu(taps @ flat.T + weights.conv1_bias)  # [B, H]
        y = x + h @ weights.conv2_weight.T + weights.conv2_bias
        return y, window[:, 1:]

    def _check(self, x: mx.array, mask: mx.array) -> None:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(
                f"[TCNBlock] x must be [B, L, D] with D = {self.dim}, "
                f"got {list(x.shape)}."
            )
        if mask.shape != x.shape[:2]:
            raise ValueError(
                f"[TCNBlock] mask must be [B, L] = {list(x.shape[:2])}, "
                f"got {list(mask.shape)}."
            )


class _Projection(nn.Module):
    """Weight and bias of one convolution, uniform within ``gain / sqrt(fan_in)``."""

    def __init__(
        self, shape: tuple[int, ...], *, fan_in: int, gain: float = 1.0
    ) -> None:
        super().__init__()
        bound = gain / math.sqrt(fan_in)
        self.weight = mx.random.uniform(-bound, bound, shape)
        self.bias = mx.zeros(shape[0])

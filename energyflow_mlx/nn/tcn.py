"""Temporal convolution block: the one sequence-mixing layer of encoder and decoder.

Its formula is that of :func:`energyflow_mlx.ops.tcn_block`; here are its weights, its
checks, and the same formula for one token at a time.
"""

import math
from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.nn.dropout import active_key, check_rate, dropout_factors
from energyflow_mlx.ops import tcn_block
from energyflow_mlx.ops.gelu import Form
from energyflow_mlx.ops.tcn_block import (
    LAYER_NORM_EPS,
    BlockWeights,
    Film,
    normalized_input,
)


def receptive_field(kernel_size: int, dilations: Sequence[int]) -> int:
    """Tokens that one output of a stack can see, itself included.

    R = 1 + (kernel_size - 1) * sum(dilations)
    """
    return 1 + (kernel_size - 1) * sum(dilations)


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
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.conv1 = _Projection((hidden, kernel_size, dim), fan_in=kernel_size * dim)
        # A tenth of the usual scale: a deep stack starts near the identity.
        self.conv2 = _Projection((dim, hidden), fan_in=hidden, gain=0.1)
        self.dilation = dilation
        self.causal = causal
        self._dropout = check_rate("TCNBlock", dropout)
        self._gelu = activation(gelu)
        self._form = cast(Form, gelu)

    @property
    def dim(self) -> int:
        """Width of input and output."""
        return self.conv2.weight.shape[0]

    @property
    def kernel_size(self) -> int:
        """Taps of the first convolution."""
        return self.conv1.weight.shape[1]

    @property
    def gelu_form(self) -> Form:
        """Which form of the GELU it uses."""
        return self._form

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
        key = active_key(
            "TCNBlock", training=self.training, rate=self._dropout, key=key
        )
        drop = None
        if key is not None:
            drop = dropout_factors(x.shape, self._dropout, key)
        return tcn_block(
            x,
            mask,
            self.weights(),
            film,
            dilation=self.dilation,
            causal=self.causal,
            form=self._form,
            drop=drop,
            keep=self.training,
        )

    def init_state(self, batch_size: int) -> list[mx.array]:
        """Return the state before the first token, ``(K-1)*dilation`` times ``[B, H]``.

        Each array is what earlier tokens have given to the convolution's output at one
        coming token, the next one first; zeros stand for the time before the sentence,
        as the convolution's padding does. A step moves no array: it adds to K-1.
        """
        past = (self.kernel_size - 1) * self.dilation
        hidden = self.conv1.weight.shape[0]
        return [mx.zeros((batch_size, hidden), dtype=self.norm.weight.dtype)] * past

    def step(
        self, x: mx.array, state: Sequence[mx.array], film: Film | None = None
    ) -> tuple[mx.array, list[mx.array]]:
        """Apply the block to one more token of each sentence.

        Args:
            x: Features of the token, ``[B, D]``.
            state: What :meth:`init_state` or the last step returned.
            film: Scale and shift, each ``[B, D]``.

        Returns:
            ``[B, D]`` and the next state.

        Raises:
            ValueError: The block is not causal.
        """
        if not self.causal:
            raise ValueError("[TCNBlock] step needs a causal block.")
        weights = self.weights()
        hidden, taps, dim = weights.conv1_weight.shape
        u = normalized_input(x, weights, film)  # [B, D]
        # One product for all taps; [H, K, D] is a matrix of K outputs a channel.
        given = (u @ weights.conv1_weight.reshape(-1, dim).T).reshape(-1, hidden, taps)
        now = given[..., -1] + weights.conv1_bias  # [B, H]
        later = list(state)
        if taps > 1:
            now = now + later.pop(0)
            later.append(given[..., 0])
        for ahead in range(1, taps - 1):
            place = ahead * self.dilation - 1
            later[place] = later[place] + given[..., taps - 1 - ahead]
        h = self._gelu(now)
        y = mx.addmm(x + weights.conv2_bias, h, weights.conv2_weight.T)
        return y, later

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

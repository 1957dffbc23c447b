"""The carrier: one recurrent cell that moves every flow and changes its energy.

Ported from ``EnergyCarrier`` of the reference system: a multi-layer GRU advanced by
one step, a memory of the five newest positions, a head for the energy and one for
the move. One set of weights serves all flows.
"""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import CarrierConfig
from energyflow_mlx.nn.gru import GRUCell
from energyflow_mlx.ops import gelu

MEMORY_SLOTS = 5
_MOVE_HIDDEN = 64
# Inputs of the recurrent cell are kept inside this range.
_LIMIT = 10.0

Hidden = tuple[mx.array, ...]


class FusedHeads(NamedTuple):
    """Weights of both heads side by side, linear layers in a row multiplied.

    Attributes:
        top: From the last GRU layer to the mixed features, ``[Hc, Hc]``.
        memory: From the position memory to them, the bias as last column,
            ``[Hc, 16]``.
        inner: From the mixed features to the heads' hidden layers, energy first,
            ``[Hc / 2 + 64, Hc]``.
        inner_bias: ``[Hc / 2 + 64]``.
        out: To the energy and the move, ``[4, Hc / 2 + 64]``; zero from one head's
            hidden layer to the other's output.
        out_bias: ``[4]``.
    """

    top: mx.array
    memory: mx.array
    inner: mx.array
    inner_bias: mx.array
    out: mx.array
    out_bias: mx.array


class Carried(NamedTuple):
    """What one step of the carrier says about N flows.

    Attributes:
        energy: Output of the energy head before its tanh, ``[N]``.
        move: Output of the displacement head, unbounded, ``[N, 3]``.
        hidden: New state of every layer, ``[N, Hc]`` each.
    """

    energy: mx.array
    move: mx.array
    hidden: Hidden


@mx.custom_function
def sanitize(x: mx.array) -> mx.array:
    """Replace NaN by 0 and clip to [-10, 10], infinities included."""
    return mx.clip(mx.where(mx.isnan(x), 0.0, x), -_LIMIT, _LIMIT)


@sanitize.vjp
def _sanitize_vjp(x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    # Of a NaN the comparison is false too. One mask where autodiff makes five.
    return mx.where(mx.abs(x) <= _LIMIT, cotangent, 0.0)


def _diagonal(a: mx.array, b: mx.array) -> mx.array:
    """Block-diagonal matrix of two."""
    over = mx.pad(a, ((0, 0), (0, b.shape[1])))
    return mx.concatenate([over, mx.pad(b, ((0, 0), (a.shape[1], 0)))])


def _head(dim_in: int, dim_out: int) -> nn.Linear:
    """Linear layer, Xavier-normal, bias 0."""
    layer = nn.Linear(dim_in, dim_out)
    layer.weight = nn.init.glorot_normal()(layer.weight)
    layer.bias = mx.zeros((dim_out,))
    return layer


class EnergyCarrier(nn.Module):
    """GRU cell with position memory, energy head and displacement head.

    Where the displacement head's last layer starts at zero, a fresh carrier leaves
    flows on straight paths.
    """

    def __init__(self, config: CarrierConfig, *, start: str) -> None:
        """Create the carrier.

        Args:
            config: Its sizes and precision.
            start: ``zero`` or ``xavier``, of the displacement head's last layer.
        """
        super().__init__()
        hidden = config.hidden
        # The energy is one more input beside the neuron's features.
        widths = [config.neuron_features + 1] + [hidden] * (config.layers - 1)
        self.cells = [GRUCell(width, hidden) for width in widths]
        self.memory = nn.Linear(3 * MEMORY_SLOTS, hidden // 4)
        self.fuse_in = nn.Linear(hidden + hidden // 4, hidden)
        self.fuse_out = nn.Linear(hidden, hidden)
        self.energy_in = _head(hidden, hidden // 2)
        self.energy_out = _head(hidden // 2, 1)
        self.move_in = _head(hidden, _MOVE_HIDDEN)
        self.move_out = _head(_MOVE_HIDDEN, 3)
        if start == "zero":
            self.move_out.weight = mx.zeros_like(self.move_out.weight)
        self._gru_float32 = config.gru_float32

    def fused(self) -> FusedHeads:
        """Weights of both heads fused, for any number of calls."""
        channels = self.fuse_in.weight.shape[0]
        w_top, w_memory = mx.split(self.fuse_in.weight, [channels], axis=1)
        bias = self.fuse_in.bias + self.memory.bias @ w_memory.T
        w_in = mx.concatenate([self.energy_in.weight, self.move_in.weight])
        b_in = mx.concatenate([self.energy_in.bias, self.move_in.bias])
        return FusedHeads(
            top=w_top,
            memory=mx.concatenate([w_memory @ self.memory.weight, bias[:, None]], 1),
            inner=w_in @ self.fuse_out.weight,
            inner_bias=b_in + self.fuse_out.bias @ w_in.T,
            out=_diagonal(self.energy_out.weight, self.move_out.weight),
            out_bias=mx.concatenate([self.energy_out.bias, self.move_out.bias]),
        )

    def __call__(
        self,
        features: mx.array,
        energy: mx.array,
        memory: mx.array,
        hidden: Hidden,
        heads: FusedHeads | None = None,
    ) -> Carried:
        """Advance N flows by one step.

        Args:
            features: What the neuron gives, ``[N, features]``.
            energy: ``[N, 1]``.
            memory: Newest positions, flattened, ``[N, 15]``; zeros where none yet.
            hidden: State of every layer, ``[N, Hc]`` each; ``()`` stands for zeros.
            heads: What ``fused`` gives; None computes it now.

        Returns:
            Outputs of both heads and the new state.
        """
        x = sanitize(mx.concatenate([features, energy], axis=-1))
        state = self._recur(x, hidden)
        energy_out, move = self._heads(state[-1], memory, heads or self.fused())
        return Carried(energy_out, move, state)

    def _recur(self, x: mx.array, hidden: Hidden) -> Hidden:
        dtype = mx.float32 if self._gru_float32 else self.cells[0].Wx.dtype
        x, state = x.astype(dtype), []
        for index, cell in enumerate(self.cells):
            x = cell(x, hidden[index] if hidden else None)
            state.append(x)
        return tuple(state)

    def _heads(
        self, top: mx.array, memory: mx.array, heads: FusedHeads
    ) -> tuple[mx.array, mx.array]:
        """Both heads on state and memory; ``[N]`` and ``[N, 3]``."""
        dtype = heads.top.dtype
        top, memory = top.astype(dtype), memory.astype(dtype)
        memory = mx.pad(memory, ((0, 0), (0, 1)), constant_values=1.0)  # for the bias
        past = memory @ heads.memory.T
        mixed = gelu(mx.addmm(past, top, heads.top.T))  # [N, Hc]
        inner = gelu(mx.addmm(heads.inner_bias, mixed, heads.inner.T))
        out = mx.addmm(heads.out_bias, inner, heads.out.T)  # [N, 4]
        energy, move = mx.split(sanitize(out.astype(mx.float32)), [1], axis=1)
        return energy[:, 0], move

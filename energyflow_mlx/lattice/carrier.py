"""The carrier: one recurrent cell that moves every flow and changes its energy.

Ported from ``EnergyCarrier`` of the reference system: a multi-layer GRU advanced by
one step, a memory of the five newest positions, a head for the energy and one for
the move. One set of weights serves all flows; ``ops.flow_carry`` computes with them.
"""

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.flows import CarrierConfig
from energyflow_mlx.nn.gru import GRUCell
from energyflow_mlx.ops.flow_carry import CellWeights, HeadWeights

MEMORY_SLOTS = 5
_MOVE_HIDDEN = 64


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

    def __init__(self, config: CarrierConfig, *, start: str, lean: float) -> None:
        """Create the carrier.

        Args:
            config: Its sizes and precision.
            start: ``zero`` or ``xavier``, of the displacement head's last layer.
            lean: Bias of that layer's z output.
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
        self.move_out.bias = mx.array([0.0, 0.0, lean])
        if start == "zero":
            self.move_out.weight = mx.zeros_like(self.move_out.weight)
        self._gru_float32 = config.gru_float32

    def fused(self) -> tuple[HeadWeights, tuple[CellWeights, ...]]:
        """Weights of the heads, linear layers in a row multiplied, and of the cells.

        Between the heads' hidden layers and outputs stands zero from one head to the
        other.
        """
        channels = self.fuse_in.weight.shape[0]
        w_top, w_memory = mx.split(self.fuse_in.weight, [channels], axis=1)
        bias = self.fuse_in.bias + self.memory.bias @ w_memory.T
        w_in = mx.concatenate([self.energy_in.weight, self.move_in.weight])
        b_in = mx.concatenate([self.energy_in.bias, self.move_in.bias])
        heads = HeadWeights(
            top=w_top,
            memory=mx.concatenate([w_memory @ self.memory.weight, bias[:, None]], 1),
            inner=w_in @ self.fuse_out.weight,
            inner_bias=b_in + self.fuse_out.bias @ w_in.T,
            out=_diagonal(self.energy_out.weight, self.move_out.weight),
            out_bias=mx.concatenate([self.energy_out.bias, self.move_out.bias]),
        )
        dtype = mx.float32 if self._gru_float32 else self.cells[0].Wx.dtype
        cells = [
            CellWeights(
                *(a.astype(dtype) for a in (cell.Wx, cell.Wh, cell.b, cell.bhn))
            )
            for cell in self.cells
        ]
        return heads, tuple(cells)

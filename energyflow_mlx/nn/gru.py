"""GRU: one step for many rows at once, and the same cell over a sequence.

    r  = sigmoid(Wxr x + b_r + Whr h)
    z  = sigmoid(Wxz x + b_z + Whz h)
    n  = tanh(Wxn x + b_n + r * (Whn h + bhn))
    h' = (1 - z) * n + z * h

Equations, gate order (r, z, n) and parameter names are those of ``mlx.nn.GRU``; the
weights of the three gates are stacked by rows. PyTorch's second bias vector is split:
its r and z thirds are added to ``b``, its n third is ``bhn``.

Everything after the matrix products is one operation, ``ops.gru_blend``.
"""

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.ops import gate_products, gru_blend


class GRUCell(nn.Module):
    """One time step of a GRU, for any number of rows; computes in its input's dtype.

    Input weights are Xavier-uniform over the stacked matrix, recurrent weights
    orthogonal over the stacked matrix, biases 0 except the update gate's, which is 1:
    a fresh cell keeps most of its state but still moves.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        """Create a cell from ``input_dim`` to ``hidden_dim`` channels."""
        super().__init__()
        h = hidden_dim
        self.Wx = nn.init.glorot_uniform()(mx.zeros((3 * h, input_dim)))
        self.Wh = nn.init.orthogonal()(mx.zeros((3 * h, h)))
        self.b = mx.concatenate([mx.zeros((h,)), mx.ones((h,)), mx.zeros((h,))])
        self.bhn = mx.zeros((h,))

    def __call__(self, x: mx.array, hidden: mx.array | None = None) -> mx.array:
        """Advance every row by one step.

        Args:
            x: Input, ``[N, D]``.
            hidden: State, ``[N, H]``; None stands for zeros and costs no product.

        Returns:
            New state, ``[N, H]``.

        Raises:
            ValueError: A shape does not fit the weights.
        """
        self._check(x, hidden)
        return self.advance(self.project(x), hidden)

    def project(self, x: mx.array) -> mx.array:
        """Input parts of the three gates, without biases; see ``gate_products``."""
        return gate_products(x, self.Wx.astype(x.dtype))

    def advance(self, from_x: mx.array, hidden: mx.array | None) -> mx.array:
        """New state ``[N, H]`` from the input parts of N rows and the old state."""
        dtype = from_x.dtype
        b, bhn = self.b.astype(dtype), self.bhn.astype(dtype)
        if hidden is None:
            hidden = mx.zeros((from_x.shape[0], bhn.size), dtype)
            from_h = mx.zeros_like(from_x)
        else:
            from_h = gate_products(hidden, self.Wh.astype(dtype))
        return gru_blend(hidden, from_x, from_h, b, bhn)

    def _check(self, x: mx.array, hidden: mx.array | None) -> None:
        rows, dim = self.Wx.shape
        if x.ndim != 2 or x.shape[1] != dim:
            raise ValueError(f"[GRUCell] x must be [N, {dim}], got {list(x.shape)}.")
        expected = (x.shape[0], rows // 3)
        if hidden is not None and hidden.shape != expected:
            raise ValueError(
                f"[GRUCell] hidden must be {list(expected)}, got {list(hidden.shape)}."
            )


class GRU(nn.Module):
    """A GRU over a sequence; the equal of ``mlx.nn.GRU``.

    The input products of all time steps are one product.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        """Create a layer from ``input_dim`` to ``hidden_dim`` channels."""
        super().__init__()
        self.cell = GRUCell(input_dim, hidden_dim)

    def __call__(self, x: mx.array, hidden: mx.array | None = None) -> mx.array:
        """Run over time.

        Args:
            x: ``[N, L, D]``.
            hidden: State before the first step, ``[N, H]``; None stands for zeros.

        Returns:
            States after every step, ``[N, L, H]``.

        Raises:
            ValueError: ``x`` is not ``[N, L, D]`` with L >= 1.
        """
        dim = self.cell.Wx.shape[1]
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != dim:
            raise ValueError(
                f"[GRU] x must be [N, L >= 1, {dim}], got {list(x.shape)}."
            )
        # Time first: each step then reads one contiguous block.
        from_x = self.cell.project(x.swapaxes(0, 1))
        states = []
        for index in range(x.shape[1]):
            hidden = self.cell.advance(from_x[index], hidden)
            states.append(hidden)
        return mx.stack(states, axis=1)

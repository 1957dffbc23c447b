"""GRU: one step for many rows at once, and the same cell over a sequence.

    r  = sigmoid(Wxr x + b_r + Whr h)
    z  = sigmoid(Wxz x + b_z + Whz h)
    n  = tanh(Wxn x + b_n + r * (Whn h + bhn))
    h' = (1 - z) * n + z * h

Equations, gate order (r, z, n) and parameter names are those of ``mlx.nn.GRU``; the
weights of the three gates are stacked by rows. PyTorch's second bias vector is split:
its r and z thirds are added to ``b``, its n third is ``bhn``.

The cell is written for the CPU, where MLX spends 17-21 ns on a built-in tanh or
sigmoid and allocates large results afresh: a rational tanh in short fused loops, one
matrix product per gate and input, each with a contiguous result.
"""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 7.9, where tanh is 1 to float32: iteratively
# reweighted least squares on Chebyshev nodes, absolute error 4e-7 in float32.
_TANH_LIMIT = 7.9
_TANH_P = (
    0.9999999735940515,
    0.13444456507914979,
    0.0035717015871526967,
    2.1903505911915795e-05,
    1.5259801526400204e-08,
)
_TANH_Q = (
    1.0,
    0.4677777869799196,
    0.0261644342987796,
    0.0003411752051120514,
    8.530597578930195e-07,
)


def _end_loop(x: mx.array) -> mx.array:
    """End the fused loop here on the CPU, where only short loops are vectorised.

    The compiler that builds ``mx.compile``'s loops gives up on a clip followed by
    arithmetic and on more than ten pairs of pointers. A GPU gains by one long loop.
    """
    return mx.contiguous(x) if mx.default_device() == mx.Device(mx.cpu) else x


def _polynomial(u: mx.array, c: tuple[float, ...]) -> mx.array:
    """Degree 4 in ``u``, in a shallow order."""
    square = u * u
    return (c[0] + c[1] * u) + square * ((c[2] + c[3] * u) + square * c[4])


def _saturate(x: mx.array) -> mx.array:
    return _end_loop(mx.clip(x, -_TANH_LIMIT, _TANH_LIMIT))


def _rational(x: mx.array) -> mx.array:
    """Compute tanh of a saturated argument."""
    u = x * x
    return x * _polynomial(u, _TANH_P) / _polynomial(u, _TANH_Q)


def _gate(x: mx.array) -> mx.array:
    """Compute the sigmoid, ``(1 + tanh(x / 2)) / 2``."""
    return 0.5 + 0.5 * _rational(_saturate(0.5 * x))


class Sums(NamedTuple):
    """What the matrix products of one step leave to be added up.

    Attributes:
        r_x: Reset gate's input part, ``[N, H]``.
        z_x: Update gate's input part, ``[N, H]``.
        n_x: Candidate's input part, ``[N, H]``.
        r_h: Reset gate's hidden part, ``[N, H]``.
        z_h: Update gate's hidden part, ``[N, H]``.
        n_h: Candidate's hidden part, ``[N, H]``.
        b: Biases of the three gates, ``[3H]``.
        bhn: Bias of the candidate's hidden part, ``[H]``.
    """

    r_x: mx.array
    z_x: mx.array
    n_x: mx.array
    r_h: mx.array
    z_h: mx.array
    n_h: mx.array
    b: mx.array
    bhn: mx.array


def _gates(sums: Sums) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Reset gate, update gate, candidate and the candidate's hidden part."""
    b_r, b_z, b_n = mx.split(sums.b, 3)
    r = _end_loop(_gate(sums.r_x + sums.r_h + b_r))
    hidden_part = _end_loop(sums.n_h + sums.bhn)
    n = _end_loop(_rational(_saturate(sums.n_x + b_n + r * hidden_part)))
    z = _end_loop(_gate(sums.z_x + sums.z_h + b_z))
    return r, z, n, hidden_part


@mx.compile
def _blend(h: mx.array, *sums: mx.array) -> mx.array:
    _, z, n, _ = _gates(Sums(*sums))
    return n + z * (h - n)


@mx.compile
def _blend_vjp(g: mx.array, h: mx.array, *sums: mx.array) -> tuple[mx.array, ...]:
    r, z, n, hidden_part = _gates(Sums(*sums))
    d_n = _end_loop(g * (1.0 - z) * (1.0 - n * n))  # before the tanh
    d_r = _end_loop(d_n * hidden_part * (r * (1.0 - r)))
    d_z = _end_loop(g * (h - n) * (z * (1.0 - z)))
    d_hidden = _end_loop(d_n * r)
    d_b = mx.concatenate([d.sum(axis=0) for d in (d_r, d_z, d_n)])
    d_sums = Sums(d_r, d_z, d_n, d_r, d_z, d_hidden, d_b, d_hidden.sum(axis=0))
    return g * z, *d_sums


@mx.custom_function
def gru_blend(h: mx.array, *sums: mx.array) -> mx.array:
    """New hidden state from the gates' sums, with a gradient of its own.

    ``n + z * (h - n)`` with ``r = sigmoid(r_x + r_h + b_r)``, ``z`` likewise and
    ``n = tanh(n_x + b_n + r * (n_h + bhn))``. Absolute error 1e-6 in float32. The
    sums are taken inside the fused loops, where they cost less than in the matrix
    products. The backward pass recomputes the gates instead of keeping them.

    Args:
        h: Hidden state, ``[N, H]``.
        *sums: The fields of ``Sums``.

    Returns:
        ``[N, H]``.
    """
    return _blend(h, *sums)


@gru_blend.vjp
def _gru_blend_backward(
    primals: tuple[mx.array, ...], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, ...]:
    return _blend_vjp(cotangent, *primals)


Parts = tuple[mx.array, mx.array, mx.array]


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

    def project(self, x: mx.array) -> Parts:
        """Input parts of the three gates, without biases, each ``[..., H]``."""
        w_r, w_z, w_n = mx.split(self.Wx.astype(x.dtype), 3)
        return x @ w_r.T, x @ w_z.T, x @ w_n.T

    def advance(self, parts: Parts, hidden: mx.array | None) -> mx.array:
        """New state ``[N, H]`` from the input parts ``[N, H]`` and the old state."""
        dtype = parts[0].dtype
        b, bhn = self.b.astype(dtype), self.bhn.astype(dtype)
        if hidden is None:
            # Laid out in full, since a broadcast input would slow the fused loops.
            zeros = mx.contiguous(mx.zeros_like(parts[0]))
            return gru_blend(zeros, *parts, zeros, zeros, zeros, b, bhn)
        w_r, w_z, w_n = mx.split(self.Wh.astype(dtype), 3)
        from_h = hidden @ w_r.T, hidden @ w_z.T, hidden @ w_n.T
        return gru_blend(hidden, *parts, *from_h, b, bhn)

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

    The input products of all time steps are one product per gate.
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
        r_in, z_in, n_in = self.cell.project(x.swapaxes(0, 1))
        states = []
        for index in range(x.shape[1]):
            now = (r_in[index], z_in[index], n_in[index])
            hidden = self.cell.advance(now, hidden)
            states.append(hidden)
        return mx.stack(states, axis=1)

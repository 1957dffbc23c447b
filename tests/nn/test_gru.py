import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.gru import GRU, GRUCell, gru_blend

SIZES = [(1, 1, 1), (5, 3, 4), (33, 65, 31)]
IDS = ["1x1x1", "5x3x4", "33x65x31"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(cell, x, h):
    """The module docstring's formulas in float64."""
    wx, wh, b, bhn = (
        np.array(a, dtype=np.float64) for a in (cell.Wx, cell.Wh, cell.b, cell.bhn)
    )
    n = wh.shape[1]
    gx, gh = x @ wx.T + b, h @ wh.T
    r = sigmoid(gx[:, :n] + gh[:, :n])
    z = sigmoid(gx[:, n : 2 * n] + gh[:, n : 2 * n])
    new = np.tanh(gx[:, 2 * n :] + r * (gh[:, 2 * n :] + bhn))
    return (1 - z) * new + z * h


def twins(dim, hidden, make, seed=0):
    """Our layer and ``mlx.nn.GRU`` with the same random weights."""
    mx.random.seed(seed)
    theirs = nn.GRU(dim, hidden)
    ours = make(dim, hidden)
    cell = ours.cell if isinstance(ours, GRU) else ours
    cell.Wx, cell.Wh, cell.b, cell.bhn = theirs.Wx, theirs.Wh, theirs.b, theirs.bhn
    return ours, theirs


def relative(a, b):
    return (mx.abs(a - b).max() / mx.maximum(mx.abs(b).max(), 1e-6)).item()


@pytest.mark.parametrize(("rows", "dim", "hidden"), SIZES, ids=IDS)
@pytest.mark.parametrize("wrap", [lambda f: f, mx.compile], ids=["eager", "compiled"])
def test_cell_equals_the_formulas(rows, dim, hidden, wrap):
    ours, _ = twins(dim, hidden, GRUCell)
    x, h = mx.random.normal((rows, dim)), mx.random.uniform(-1, 1, (rows, hidden))
    y = wrap(lambda x, h: ours(x, h))(x, h)
    expected = numpy_step(ours, np.array(x, np.float64), np.array(h, np.float64))
    np.testing.assert_allclose(np.array(y), expected, atol=2e-6)


@pytest.mark.parametrize(("rows", "dim", "hidden"), SIZES, ids=IDS)
@pytest.mark.parametrize("fresh", [False, True], ids=["with state", "fresh"])
def test_cell_equals_one_step_of_mlx_gru_in_value_and_gradient(
    rows, dim, hidden, fresh
):
    ours, theirs = twins(dim, hidden, GRUCell)
    x, h = mx.random.normal((rows, dim)), mx.random.uniform(-1, 1, (rows, hidden))
    weight = mx.random.normal((rows, hidden))

    def our_loss(params, x, h):
        ours.update(params)
        return (ours(x, None if fresh else h) * weight).sum()

    def their_loss(params, x, h):
        theirs.update(params)
        y = theirs(x[:, None], None if fresh else h)
        return (y[:, 0] * weight).sum()

    got = mx.value_and_grad(our_loss, argnums=(0, 1, 2))(ours.parameters(), x, h)
    want = mx.value_and_grad(their_loss, argnums=(0, 1, 2))(theirs.parameters(), x, h)
    for (name, a), (_, b) in zip(tree_flatten(got), tree_flatten(want), strict=True):
        assert relative(a, b) < 1e-5, name


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("fresh", [False, True], ids=["with state", "fresh"])
def test_sequence_equals_mlx_gru_in_value_and_gradient(length, fresh):
    ours, theirs = twins(5, 6, GRU)
    x, h = mx.random.normal((3, length, 5)), mx.random.uniform(-1, 1, (3, 6))
    weight = mx.random.normal((3, length, 6))

    def loss_of(layer):
        def loss(params, x, h):
            layer.update(params)
            return (layer(x, None if fresh else h) * weight).sum()

        return mx.value_and_grad(loss, argnums=(0, 1, 2))(layer.parameters(), x, h)

    got, want = tree_flatten(loss_of(ours)), tree_flatten(loss_of(theirs))
    for (name, a), (_, b) in zip(got, want, strict=True):
        assert relative(a, b) < 1e-5, name


def test_gradient_of_the_blend_equals_finite_differences():
    mx.random.seed(1)
    shapes = [(2, 3)] * 7 + [(9,), (3,)]
    args = [mx.random.normal(shape) for shape in shapes]

    def f64(h, rx, zx, nx, rh, zh, nh, b, bhn):
        r, z = sigmoid(rx + rh + b[:3]), sigmoid(zx + zh + b[3:6])
        new = np.tanh(nx + b[6:] + r * (nh + bhn))
        return (new + z * (h - new)).sum()

    def loss(h, rx, zx, nx, rh, zh, nh, *biases):
        sums = (mx.concatenate(gates, axis=1) for gates in ((rx, zx, nx), (rh, zh, nh)))
        return gru_blend(h, *sums, *biases).sum()

    grads = mx.grad(loss, argnums=tuple(range(9)))(*args)
    base = [np.array(a, np.float64) for a in args]
    for index, grad in enumerate(grads):
        for at in np.ndindex(*shapes[index]):
            up, down = ([a.copy() for a in base] for _ in range(2))
            up[index][at] += 1e-5
            down[index][at] -= 1e-5
            slope = (f64(*up) - f64(*down)) / 2e-5
            assert abs(slope - grad[at].item()) < 5e-6


@pytest.mark.parametrize("size", [1e3, 1e30], ids=["1e3", "1e30"])
def test_huge_sums_saturate_exactly(size):
    big, h, zero = mx.full((1, 4), size), mx.full((1, 4), 0.25), mx.zeros((1, 4))
    biases = mx.zeros((12,)), mx.zeros((4,))

    def blend(z, n):
        from_x = mx.concatenate([zero, z, n], axis=1)
        return gru_blend(h, from_x, mx.zeros_like(from_x), *biases)

    assert mx.allclose(blend(-big, big), mx.ones((1, 4)), atol=1e-6)
    assert mx.allclose(blend(-big, -big), -mx.ones((1, 4)))
    assert mx.allclose(blend(big, big), h, atol=1e-6)


def test_state_stays_inside_minus_one_to_one():
    mx.random.seed(2)
    cell, h = GRUCell(3, 8), None
    for _ in range(50):
        h = cell(10 * mx.random.normal((4, 3)), h)
    assert mx.abs(h).max().item() <= 1.0


def test_update_gate_bias_is_one_in_total():
    """The reference's two bias vectors add up to 2, so flows barely move."""
    cell = GRUCell(3, 4)
    assert cell.b.tolist() == [0] * 4 + [1] * 4 + [0] * 4
    assert cell.bhn.tolist() == [0] * 4


def test_recurrent_weights_start_orthogonal_and_input_weights_xavier():
    mx.random.seed(3)
    cell = GRUCell(7, 8)
    assert mx.allclose(cell.Wh.T @ cell.Wh, mx.eye(8), atol=1e-5)
    limit = (6 / (24 + 7)) ** 0.5
    assert 0.9 * limit < mx.abs(cell.Wx).max().item() <= limit


def test_computes_in_the_dtype_of_its_input():
    """Half-precision weights do not round a float32 state."""
    ours, _ = twins(3, 4, GRUCell)
    x, h = mx.random.normal((2, 3)), mx.random.normal((2, 4))
    exact = ours(x, h)
    ours.set_dtype(mx.bfloat16)
    y = ours(x, h)
    assert y.dtype == mx.float32
    assert mx.abs(y - exact).max().item() < 2e-2
    assert ours(x.astype(mx.bfloat16)).dtype == mx.bfloat16


def test_checkpointed_gradient_is_the_same():
    cell, _ = twins(3, 4, GRUCell)
    x, h = mx.random.normal((5, 3)), mx.random.normal((5, 4))
    plain = nn.value_and_grad(cell, lambda: cell(x, h).sum())()
    saved = nn.utils.checkpoint(cell)
    again = nn.value_and_grad(cell, lambda: saved(x, h).sum())()
    for (_, a), (_, b) in zip(tree_flatten(plain), tree_flatten(again), strict=True):
        assert mx.array_equal(a, b)


def test_wrong_shapes_are_refused_by_name():
    cell, layer = GRUCell(3, 4), GRU(3, 4)
    with pytest.raises(ValueError, match=r"\[GRUCell\] x must be \[N, 3\]"):
        cell(mx.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"hidden must be \[2, 4\], got \[1, 4\]"):
        cell(mx.zeros((2, 3)), mx.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"\[GRU\] x must be \[N, L >= 1, 3\]"):
        layer(mx.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"got \[2, 0, 3\]"):
        layer(mx.zeros((2, 0, 3)))

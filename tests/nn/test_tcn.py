import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.tcn import receptive_field
from energyflow_mlx.ops.tcn_block import BlockWeights, normalized_input, tcn_block
from tests.text.small import make_block


def block_of(dim=6, hidden=8, kernel_size=3, dilation=2, **options):
    """A block whose norm and biases are not at their start values."""
    block = make_block(dim, hidden, kernel_size, dilation, **options)
    block.norm.weight = 1 + 0.3 * mx.random.normal((dim,))
    block.norm.bias = 0.3 * mx.random.normal((dim,))
    block.conv1.bias = 0.3 * mx.random.normal((hidden,))
    block.conv2.bias = 0.3 * mx.random.normal((dim,))
    block.conv2.weight = block.conv2.weight * 10
    return block


def ragged_mask(lengths, longest):
    return mx.array(
        (np.arange(longest)[None] < np.array(lengths)[:, None]).astype(np.float32)
    )


def slow_block(block, x, mask, film=None):
    """The block's formula in float64 loops over batch, time and taps."""
    p = [np.array(w, dtype=np.float64) for w in block.weights()]
    gamma, beta, w1, b1, w2, b2 = p
    x, mask = np.array(x, dtype=np.float64), np.array(mask, dtype=np.float64)
    u = x - x.mean(-1, keepdims=True)
    u = u / np.sqrt((u**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta
    if film is not None:
        scale, shift = (np.array(f, dtype=np.float64) for f in film)
        u = u * (1 + scale) + shift
    if not block.causal:
        u = u * mask[..., None]
    kernel_size = w1.shape[1]
    ahead = 0 if block.causal else (kernel_size - 1) // 2
    y = np.zeros_like(x)
    for b, t in np.ndindex(x.shape[:2]):
        h = b1.copy()
        for k in range(kernel_size):
            source = t - (kernel_size - 1 - k - ahead) * block.dilation
            if 0 <= source < x.shape[1]:
                h += w1[:, k] @ u[b, source]
        h = 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        y[b, t] = mask[b, t] * (x[b, t] + w2 @ h + b2)
    return y


@pytest.mark.parametrize("with_film", [False, True], ids=["plain", "film"])
@pytest.mark.parametrize(
    ("kernel_size", "dilation", "length", "causal"),
    [
        (3, 2, 9, True),
        (5, 1, 7, True),
        (1, 1, 4, True),
        (3, 4, 1, True),
        (3, 2, 9, False),
    ],
)
def test_block_equals_its_formula(kernel_size, dilation, length, causal, with_film):
    """The variance is the two-pass one of the formula here."""
    block = block_of(kernel_size=kernel_size, dilation=dilation, causal=causal)
    x = mx.random.normal((3, length, 6)) + 50  # an offset one-pass variance loses
    mask = ragged_mask([length, max(1, length // 2), 1], length)
    film = None
    if with_film:
        film = (mx.random.normal((3, 1, 6)), mx.random.normal((3, 1, 6)))
    expected = slow_block(block, x, mask, film)
    np.testing.assert_allclose(np.array(block(x, mask, film)), expected, atol=2e-4)


def test_later_tokens_cannot_change_earlier_outputs():
    block = block_of(kernel_size=3, dilation=2)
    x, mask = mx.random.normal((1, 9, 6)), mx.ones((1, 9))
    before = np.array(block(x, mask))
    for t in range(9):
        changed = mx.array(x)
        changed[:, t] = changed[:, t] + 1.0
        after = np.array(block(changed, mask))
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-3


def test_a_block_that_is_not_causal_sees_both_sides_equally_far():
    block = block_of(kernel_size=3, dilation=2, causal=False)
    x, mask = mx.random.normal((1, 9, 6)), mx.ones((1, 9))
    before = np.array(block(x, mask))
    changed = mx.array(x)
    changed[:, 4] = changed[:, 4] + mx.random.normal((6,))
    moved = np.abs(np.array(block(changed, mask)) - before).max(-1)[0] > 1e-6
    assert moved.nonzero()[0].tolist() == [2, 4, 6]


@pytest.mark.parametrize("causal", [True, False])
def test_padding_and_company_do_not_change_a_sentence(causal):
    block = block_of(causal=causal)
    mask = ragged_mask([11, 5, 1], 11)
    x = mx.random.normal((3, 11, 6)) * mask[..., None]
    together = np.array(block(x, mask))
    for row, length in enumerate([11, 5, 1]):
        alone = block(x[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_allclose(
            together[row, :length], np.array(alone)[0], atol=1e-5
        )
        assert (together[row, length:] == 0).all()


def test_stepping_equals_the_whole_sequence():
    block = block_of(kernel_size=3, dilation=4)
    x, mask = mx.random.normal((2, 11, 6)), mx.ones((2, 11))
    film = (mx.random.normal((2, 1, 6)), mx.random.normal((2, 1, 6)))
    whole = np.array(block(x, mask, film))
    state = block.init_state(2)
    assert state.shape == (2, 8, 6)
    for t in range(11):
        y, state = block.step(x[:, t], state, film)
        assert state.shape == (2, 8, 6)
        np.testing.assert_allclose(np.array(y), whole[:, t], atol=1e-5)


def test_each_block_uses_its_own_dilation():
    blocks = [block_of(dilation=d) for d in (1, 2, 4)]
    assert [b.dilation for b in blocks] == [1, 2, 4]
    x, mask = mx.zeros((1, 9, 6)), mx.ones((1, 9))
    for block in blocks:
        changed = mx.array(x)
        changed[0, 0] = mx.arange(6).astype(mx.float32)
        moved = (
            np.array(mx.abs(block(changed, mask) - block(x, mask)).max(-1))[0] > 1e-6
        )
        expected = [0, block.dilation, 2 * block.dilation]
        assert moved.nonzero()[0].tolist() == expected


@pytest.mark.parametrize(
    ("kernel_size", "dilations", "expected"),
    [(5, (1, 2, 4, 8), 61), (3, (1, 2), 7), (1, (1,), 1)],
)
def test_receptive_field(kernel_size, dilations, expected):
    assert receptive_field(kernel_size, dilations) == expected


def apply(x, mask, *weights):
    return tcn_block(x, mask, BlockWeights(*weights), dilation=2, causal=True)


def test_compiled_body_is_traced_once_for_fixed_shapes_and_equals_the_plain_one():
    block = block_of()
    traces = []

    def body(x, mask, *weights):
        traces.append(x.shape)
        return apply(x, mask, *weights)

    fused = mx.compile(body)
    mask = ragged_mask([9, 4], 9)
    for _ in range(3):
        x = mx.random.normal((2, 9, 6))
        plain = np.array(block(x, mask))
        np.testing.assert_allclose(
            np.array(fused(x, mask, *block.weights())), plain, atol=1e-6
        )
        # New weights of the same shapes must be seen, without another trace.
        block.conv1.weight = block.conv1.weight * 1.5
    assert len(traces) == 1
    fused(mx.random.normal((2, 8, 6)), ragged_mask([8, 4], 8), *block.weights())
    assert len(traces) == 2


def test_gradient_through_the_compiled_body_equals_the_plain_gradient():
    block = block_of()
    mask = ragged_mask([9, 4], 9)
    x = mx.random.normal((2, 9, 6))

    def loss(x, *weights):
        y = apply(x, mask, *weights)
        return (y * mx.sin(y)).sum()

    grad = mx.grad(loss, argnums=tuple(range(7)))
    for plain, fused in zip(
        grad(x, *block.weights()), mx.compile(grad)(x, *block.weights()), strict=True
    ):
        np.testing.assert_allclose(np.array(fused), np.array(plain), atol=1e-4)


def test_gradient_equals_finite_differences_of_the_formula():
    block = block_of(dim=3, hidden=4, kernel_size=2, dilation=1)
    x, mask = mx.random.normal((2, 4, 3)), ragged_mask([4, 2], 4)
    cotangent = mx.random.normal((2, 4, 3))

    def loss(weight):
        block.conv1.weight = weight
        return (block(x, mask) * cotangent).sum()

    start = mx.array(block.conv1.weight)
    gradient = np.array(mx.grad(loss)(start))
    for index in [(0, 0, 0), (1, 1, 2), (3, 0, 1)]:
        values = []
        for h in (1e-4, -1e-4):
            moved = np.array(start)
            moved[index] += h
            block.conv1.weight = mx.array(moved)
            y = slow_block(block, x, mask)
            values.append((y * np.array(cotangent)).sum())
        slope = (values[0] - values[1]) / 2e-4
        assert gradient[index] == pytest.approx(slope, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(mx.float16, 2e-2), (mx.bfloat16, 1.5e-1)]
)
def test_half_precision_stays_within_its_error_bound(dtype, tolerance):
    block = block_of(dim=7, hidden=33)  # odd sizes
    x, mask = mx.random.normal((2, 9, 7)), ragged_mask([9, 4], 9)
    full = np.array(block(x, mask))
    block.set_dtype(dtype)
    half = block(x.astype(dtype), mask)
    assert half.dtype == dtype
    assert np.abs(np.array(half.astype(mx.float32)) - full).max() < tolerance


def test_strided_input_equals_contiguous_input():
    block = block_of()
    x, mask = mx.random.normal((9, 3, 6)), ragged_mask([9, 4, 1], 9)
    strided = x.transpose(1, 0, 2)
    np.testing.assert_allclose(
        np.array(block(strided, mask)),
        np.array(block(mx.array(np.array(strided)), mask)),
        atol=1e-6,
    )


def test_a_new_block_starts_near_the_identity_with_all_six_tensors_trainable():
    block = make_block(64, 96, 3, 1)
    x, mask = mx.random.normal((2, 5, 64)), mx.ones((2, 5))
    change = mx.linalg.norm(block(x, mask) - x) / mx.linalg.norm(x)
    assert 0 < float(change) < 0.1
    names = {name for name, _ in tree_flatten(block.trainable_parameters())}
    assert names == {
        f"{layer}.{kind}"
        for layer in ("norm", "conv1", "conv2")
        for kind in ("weight", "bias")
    }


def test_dropout_acts_in_training_only_and_only_with_a_key():
    block = block_of(dropout=0.5)
    x, mask = mx.random.normal((2, 9, 6)), mx.ones((2, 9))
    with pytest.raises(ValueError, match=r"\[TCNBlock\] key must be given in training"):
        block(x, mask)
    one, two = (np.array(block(x, mask, key=mx.random.key(s))) for s in (1, 2))
    again = np.array(block(x, mask, key=mx.random.key(1)))
    assert np.abs(one - two).max() > 0.01
    np.testing.assert_array_equal(one, again)
    block.eval()
    np.testing.assert_array_equal(
        np.array(block(x, mask, key=mx.random.key(1))), np.array(block(x, mask))
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_block(0, 4, 3, 1), "dim must be at least 1, got 0"),
        (lambda: make_block(4, 4, 3, 0), "dilation must be at least 1, got 0"),
        (lambda: make_block(4, 4, 2, 1, causal=False), "kernel_size must be odd"),
        (lambda: make_block(4, 4, 3, 1, dropout=1.0), r"dropout must be in \[0, 1\)"),
        (
            lambda: make_block(4, 4, 3, 1)(mx.zeros((2, 5, 3)), mx.ones((2, 5))),
            r"x must be \[B, L, D\] with D = 4, got \[2, 5, 3\]",
        ),
        (
            lambda: make_block(4, 4, 3, 1)(mx.zeros((2, 5, 4)), mx.ones((2, 4))),
            r"mask must be \[B, L\] = \[2, 5\], got \[2, 4\]",
        ),
        (
            lambda: make_block(4, 4, 3, 1, causal=False).step(
                mx.zeros((2, 4)), mx.zeros((2, 2, 4))
            ),
            "step needs a causal block",
        ),
    ],
)
def test_wrong_sizes_are_named_before_any_work(make, message):
    with pytest.raises(ValueError, match=r"\[TCNBlock\] " + message):
        make()


def test_film_of_zero_is_no_film():
    block = block_of()
    x = mx.random.normal((2, 5, 6))
    zeros = (mx.zeros((2, 1, 6)), mx.zeros((2, 1, 6)))
    np.testing.assert_array_equal(
        np.array(normalized_input(x, block.weights(), zeros)),
        np.array(normalized_input(x, block.weights(), None)),
    )

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from energyflow_mlx.nn.losses import cosine, cross_entropy, mse, sequence_cross_entropy


def reference(logits, targets, smoothing=0.0):
    """Cross entropy in float64."""
    z = np.asarray(logits, dtype=np.float64)
    logp = z - z.max(-1, keepdims=True)
    logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
    chosen = logp[np.arange(len(z)), targets]
    return -(1 - smoothing) * chosen - smoothing * logp.mean(-1)


def sample(n, vocab, scale=4.0):
    logits = mx.random.normal((n, vocab)) * scale
    return logits, mx.random.randint(0, vocab, (n,))


@pytest.mark.parametrize("wrap", [lambda f: f, mx.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n,vocab", [(1, 2), (9, 37), (33, 1001)])
def test_value_and_gradient_equal_the_library_loss(n, vocab, smoothing, wrap):
    logits, targets = sample(n, vocab)
    weights = mx.random.uniform(shape=(n,))

    def ours(z):
        return (cross_entropy(z, targets, label_smoothing=smoothing) * weights).sum()

    def library(z):
        losses = nn.losses.cross_entropy(z, targets, label_smoothing=smoothing)
        return (losses * weights).sum()

    value, gradient = wrap(mx.value_and_grad(ours))(logits)
    expected, expected_gradient = mx.value_and_grad(library)(logits)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(
        np.array(gradient), np.array(expected_gradient), atol=2e-6
    )


def test_gradient_equals_finite_differences():
    logits, targets = sample(3, 5)
    gradient = np.array(mx.grad(lambda z: cross_entropy(z, targets).sum())(logits))
    z, t = np.array(logits, dtype=np.float64), np.array(targets)
    for i, j in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        slope = (reference(up, t).sum() - reference(down, t).sum()) / 2e-5
        assert gradient[i, j] == pytest.approx(slope, abs=2e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits_neither_overflow_nor_lose_the_loss(shift):
    logits = mx.array([[0.0, 300.0, -300.0], [5e3, -5e3, 0.0]]) + shift
    losses = np.array(cross_entropy(logits, mx.array([0, 0])))
    np.testing.assert_allclose(losses, [300.0, 0.0], atol=1e-3)
    gradient = mx.grad(lambda z: cross_entropy(z, mx.array([0, 0])).sum())(logits)
    assert np.isfinite(np.array(gradient)).all()


def test_a_token_ruled_out_by_minus_infinity_gets_no_probability():
    logits = mx.array([[0.0, -float("inf"), 0.0]])
    assert float(cross_entropy(logits, mx.array([0]))) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(mx.float16, 2e-3), (mx.bfloat16, 2e-2)]
)
def test_half_precision_logits_are_summed_in_float32(dtype, tolerance):
    logits, targets = sample(17, 4099, scale=1.0)
    half = logits.astype(dtype)
    losses = cross_entropy(half, targets)
    assert losses.dtype == mx.float32
    exact = reference(np.array(half.astype(mx.float32)), np.array(targets))
    np.testing.assert_allclose(np.array(losses), exact, atol=1e-4)
    gradient = mx.grad(lambda z: cross_entropy(z, targets).sum())(half)
    assert gradient.dtype == dtype
    # The largest entry is the target's, near -1; the rest are near 1/V.
    full = mx.grad(lambda z: cross_entropy(z, targets).sum())(logits)
    difference = np.array(gradient.astype(mx.float32)) - np.array(full)
    assert np.abs(difference).max() < tolerance


def test_strided_logits_equal_contiguous_ones():
    logits, targets = sample(6, 40)
    np.testing.assert_array_equal(
        np.array(cross_entropy(logits[:, ::2], targets // 2)),
        np.array(cross_entropy(mx.array(np.array(logits)[:, ::2]), targets // 2)),
    )


def test_gradients_of_a_weight_before_and_after_the_loss_both_arrive():
    """The integer argument must not shift the gradients of its neighbours."""
    h, targets = mx.random.normal((5, 4)), mx.random.randint(0, 9, (5,))
    weight, scale = mx.random.normal((9, 4)), mx.random.uniform(shape=(5,))

    def loss(ce, w, s):
        return (ce(h @ w.T, targets) * s).sum()

    ours = mx.grad(lambda w, s: loss(cross_entropy, w, s), argnums=(0, 1))
    library = mx.grad(lambda w, s: loss(nn.losses.cross_entropy, w, s), argnums=(0, 1))
    for found, expected in zip(
        ours(weight, scale), library(weight, scale), strict=True
    ):
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-6)


def test_padded_targets_count_neither_in_the_sum_nor_in_the_divisor():
    logits = mx.random.normal((2, 5, 11))
    targets = mx.random.randint(0, 11, (2, 5))
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=mx.float32)
    total, count = sequence_cross_entropy(logits, targets, mask)
    rows = [(0, slice(0, 5)), (1, slice(0, 2))]
    expected = sum(
        reference(np.array(logits)[b, span], np.array(targets)[b, span]).sum()
        for b, span in rows
    )
    assert float(count) == 7
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_a_target_that_is_masked_out_has_no_gradient_even_if_it_is_nan():
    logits = np.random.default_rng(0).normal(size=(1, 3, 7)).astype(np.float32)
    targets = mx.array([[1, 2, 0]])
    mask = mx.array([[1.0, 1.0, 0.0]])

    def loss(z):
        return sequence_cross_entropy(z, targets, mask)[0]

    gradient = np.array(mx.grad(loss)(mx.array(logits)))
    assert (gradient[0, 2] == 0).all() and np.abs(gradient[0, :2]).max() > 0
    logits[0, 2] = np.nan
    assert np.isfinite(float(loss(mx.array(logits))))


def test_sums_of_two_micro_batches_equal_the_sum_of_the_whole():
    logits = mx.random.normal((4, 3, 11))
    targets = mx.random.randint(0, 11, (4, 3))
    mask = mx.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=mx.float32)
    whole = sequence_cross_entropy(logits, targets, mask)
    halves = [
        sequence_cross_entropy(logits[s], targets[s], mask[s])
        for s in (slice(0, 2), slice(2, 4))
    ]
    for i in range(2):
        assert float(whole[i]) == pytest.approx(float(halves[0][i] + halves[1][i]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cross_entropy(mx.zeros((2, 3)), mx.zeros(3, dtype=mx.int32)),
            ValueError,
            r"\[cross_entropy\] logits and targets must be \[N, V\] and \[N\], "
            r"got \[2, 3\] and \[3\]",
        ),
        (
            lambda: cross_entropy(mx.zeros((2, 3)), mx.zeros(2)),
            TypeError,
            "targets must be integers",
        ),
        (
            lambda: cross_entropy(
                mx.zeros((2, 3)), mx.zeros(2, dtype=mx.int32), label_smoothing=1.0
            ),
            ValueError,
            r"label_smoothing must be in \[0, 1\), got 1.0",
        ),
        (
            lambda: sequence_cross_entropy(
                mx.zeros((2, 3, 4)), mx.zeros((2, 3), dtype=mx.int32), mx.ones((2, 2))
            ),
            ValueError,
            r"mask must be \[B, L\] = \[2, 3\], got \[2, 2\]",
        ),
        (
            lambda: cosine(mx.ones((2, 3)), mx.ones((2, 4))),
            ValueError,
            r"\[cosine\] both arrays must have one shape",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_cosine_matches_numpy_and_a_zero_row_has_a_finite_gradient():
    a, b = mx.random.normal((4, 9)), mx.random.normal((4, 9))
    u, v = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    expected = (u * v).sum(-1) / np.linalg.norm(u, axis=-1)
    expected /= np.linalg.norm(v, axis=-1)
    np.testing.assert_allclose(np.array(cosine(a, b)), expected, atol=1e-6)
    zero = mx.zeros((1, 9))
    assert float(cosine(zero, b[:1])) == 0.0
    gradient = mx.grad(lambda x: cosine(x, b[:1]).sum())(zero)
    assert np.isfinite(np.array(gradient)).all()


def test_cosine_gradient_has_the_closed_form():
    """d cos / dy = t / (|y||t|) - (y.t) y / (|y|^3 |t|)."""
    y, t = mx.random.normal((3, 6)), mx.random.normal((3, 6))
    gradient = np.array(mx.grad(lambda x: cosine(x, t).sum())(y))
    u, v = np.array(y, dtype=np.float64), np.array(t, dtype=np.float64)
    nu, nv = (np.linalg.norm(w, axis=-1, keepdims=True) for w in (u, v))
    dot = (u * v).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        gradient, v / (nu * nv) - dot * u / (nu**3 * nv), atol=1e-6
    )


def test_mse_and_its_gradient_have_the_closed_form():
    y, t = mx.random.normal((3, 6)), mx.random.normal((3, 6))
    difference = np.array(y) - np.array(t)
    assert float(mse(y, t)) == pytest.approx((difference**2).mean(), rel=1e-5)
    gradient = mx.grad(lambda x: mse(x, t))(y)
    np.testing.assert_allclose(np.array(gradient), 2 * difference / 18, atol=1e-6)

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.nn.losses import cosine, mse, similarity_kl, similarity_mse


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


def cosines(x):
    x = np.array(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def two_sets(count=5):
    """Vectors of 6 numbers, their goals of 9, and which rows are real."""
    y, t = mx.random.normal((count, 6)), mx.random.normal((count, 9))
    return y, t, mx.array([1.0] * (count - 1) + [0.0])


def test_similarity_mse_compares_each_row_with_the_other_real_rows():
    y, t, real = two_sets()
    squares = ((cosines(y) - cosines(t)) ** 2)[:4, :4]
    expected = [np.delete(squares[i], i).mean() for i in range(4)] + [0.0]
    found = similarity_mse(3 * y, t, real)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-6)


def test_similarity_kl_is_the_divergence_over_the_other_real_rows():
    y, t, real = two_sets()
    expected = []
    for i in range(4):
        p, q = (np.delete(np.exp(cosines(x)[i, :4] / 0.2), i) for x in (t, y))
        p, q = p / p.sum(), q / q.sum()
        expected.append((p * np.log(p / q)).sum())
    found = np.array(similarity_kl(y, t, real, 0.2))
    np.testing.assert_allclose(found, [*expected, 0.0], atol=1e-5)


def divergence(y, t, real):
    return similarity_kl(y, t, real, 0.2)


either = pytest.mark.parametrize("loss", [similarity_mse, divergence])


@either
def test_gradient_of_a_similarity_is_that_of_finite_differences(loss):
    y, t, real = two_sets()
    gradient = np.array(mx.grad(lambda x: loss(x, t, real).sum())(y))
    assert not gradient[4].any()  # padding
    step = 1e-2
    for place in [(0, 0), (1, 3), (3, 5)]:
        moved = [np.array(y), np.array(y)]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (loss(mx.array(m), t, real).sum().item() for m in moved)
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=2e-3)


@either
def test_a_similarity_is_0_for_equal_angles_and_for_a_row_without_others(loss):
    y, t, real = two_sets()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    turned = mx.array(np.array(y) @ turn, mx.float32) * 2
    np.testing.assert_allclose(np.array(loss(y, turned, real)), 0, atol=1e-5)
    alone = mx.array([1.0, 0, 0, 0, 0])
    assert not np.array(loss(y, t, alone)).any()
    gradient = mx.grad(lambda x: loss(x, t, alone).sum())(y)
    assert not np.array(gradient).any()

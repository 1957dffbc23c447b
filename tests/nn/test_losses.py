import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.nn.losses import cosine, mse


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

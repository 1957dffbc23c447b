import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.nn import soft_tokens
from energyflow_mlx.nn.soft_tokens import expected_rows

T, V, D, R = 7, 13, 5, 3


def arrays():
    return [mx.random.normal(shape) for shape in ((T, D), (V, D), (V,), (V, R))]


def test_a_row_is_the_mean_of_the_table_under_the_softmax():
    h, weight, offset, table = map(np.array, arrays())
    logits = h @ weight.T + offset
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    found = expected_rows(*map(mx.array, (h, weight, offset, table)))
    np.testing.assert_allclose(np.array(found), p @ table, atol=1e-5)


def test_chunks_give_the_same_rows_and_gradients(monkeypatch):
    given = arrays()
    seen = mx.random.normal((T, R))

    def loss(*arrays):
        return mx.sum(expected_rows(*arrays) * seen)

    def found():
        return mx.compile(mx.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*given)

    whole, gradients = found()
    monkeypatch.setattr(soft_tokens, "_CHUNK_BYTES", 3 * V * 4)
    chunked, of_chunks = found()
    assert chunked.item() == pytest.approx(whole.item(), rel=1e-5)
    for one, other in zip(gradients, of_chunks, strict=True):
        np.testing.assert_allclose(np.array(other), np.array(one), atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_formats_keep_their_format_and_stay_near(dtype):
    h, weight, offset, table = arrays()
    found = expected_rows(h.astype(dtype), weight, offset, table.astype(dtype))
    assert found.dtype == dtype
    expected = np.array(expected_rows(h, weight, offset, table))
    found = np.array(found.astype(mx.float32))
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_a_banned_column_has_no_part():
    h, weight, offset, table = arrays()
    banned = mx.where(mx.arange(V) == 4, -mx.inf, offset)
    others = mx.array([v for v in range(V) if v != 4])
    expected = expected_rows(h, weight[others], offset[others], table[others])
    found = expected_rows(h, weight, banned, table)
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-6)

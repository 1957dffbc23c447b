import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.context import SentenceContext

LENGTHS = [7, 3, 0]


def case(dim=5):
    """A layer that does something, tokens with numbers at padding too, and a mask."""
    layer = SentenceContext(dim)
    layer.weight = mx.random.normal((dim, dim))
    layer.bias = mx.random.normal((dim,))
    layer.norm.weight = mx.random.normal((dim,))
    layer.norm.bias = mx.random.normal((dim,))
    mask = (np.arange(7)[None] < np.array(LENGTHS)[:, None]).astype(np.float32)
    return layer, mx.random.normal((3, 7, dim)), mx.array(mask)


def test_each_real_token_gets_the_map_of_the_normalized_mean():
    layer, x, mask = case()
    y = np.array(layer(x, mask))
    weight, bias = np.array(layer.weight), np.array(layer.bias)
    for row, length in enumerate(LENGTHS[:2]):
        real = np.array(x)[row, :length]
        mean = real.mean(axis=0)
        unit = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
        said = unit * np.array(layer.norm.weight) + np.array(layer.norm.bias)
        expected = real + weight @ said + bias
        np.testing.assert_allclose(y[row, :length], expected, atol=1e-5)


def test_padding_stays_zero_also_in_a_sentence_without_tokens():
    layer, x, mask = case()
    y = np.array(layer(x, mask))
    assert np.isfinite(y).all()
    assert (y[np.array(mask) == 0] == 0).all()


def test_a_new_one_changes_no_bit_and_draws_no_random_number():
    _, x, mask = case()
    x = x * mask[..., None]
    mx.random.seed(3)
    expected = np.array(mx.random.normal((4,)))
    mx.random.seed(3)
    layer = SentenceContext(5)
    np.testing.assert_array_equal(np.array(mx.random.normal((4,))), expected)
    np.testing.assert_array_equal(np.array(layer(x, mask)), np.array(x))


def test_every_weight_and_every_real_token_gets_a_gradient():
    layer, x, mask = case()

    def loss(parameters, x):
        layer.update(parameters)
        return mx.sin(layer(x, mask)).sum()

    weights, tokens = mx.grad(loss, argnums=(0, 1))(layer.parameters(), x)
    assert all(float(mx.abs(g).max()) > 0 for _, g in tree_flatten(weights))
    reached = np.abs(np.array(tokens)).max(-1) > 0
    np.testing.assert_array_equal(reached, np.array(mask) > 0)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_formats_come_back_as_they_are_near_the_full_result(dtype):
    layer, x, mask = case()
    full = np.array(layer(x, mask))
    layer.set_dtype(dtype)
    half = layer(x.astype(dtype), mask)
    assert half.dtype == dtype
    error = np.abs(np.array(half.astype(mx.float32)) - full).max()
    assert error < (0.02 if dtype == mx.float16 else 0.2)


def test_a_mask_of_another_shape_is_refused():
    layer, x, mask = case()
    with pytest.raises(ValueError, match=r"mask must be \[B, L\] = \[3, 7\]"):
        layer(x, mask[:, :4])

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn import transformer
from energyflow_mlx.nn.dropout import dropout
from energyflow_mlx.nn.transformer import (
    SelfAttention,
    sinusoidal_positions,
    xavier_linear,
)
from tests.text.small import make_layer


def slow_attention(layer, x, mask, heads):
    """Softmax attention in float64 loops over rows, heads and queries."""
    project = {
        name: (np.array(part.weight, dtype=np.float64), np.array(part.bias))
        for name, part in (
            ("q", layer.query),
            ("k", layer.key),
            ("v", layer.value),
            ("o", layer.output),
        )
    }
    x, mask = np.array(x, dtype=np.float64), np.array(mask)
    q, k, v = (x @ project[n][0].T + project[n][1] for n in "qkv")
    width = x.shape[-1] // heads
    joined = np.zeros_like(x)
    for b, t in np.ndindex(x.shape[:2]):
        real = mask[b] > 0
        for head in range(heads):
            span = slice(head * width, (head + 1) * width)
            score = k[b][real][:, span] @ q[b, t, span] / np.sqrt(width)
            share = np.exp(score - score.max())
            joined[b, t, span] = share / share.sum() @ v[b][real][:, span]
    return joined @ project["o"][0].T + project["o"][1]


def test_attention_equals_its_formula_and_ignores_padding():
    layer = SelfAttention(8, 2, dropout=0.0)
    x = mx.random.normal((2, 5, 8))
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=mx.float32)
    expected = slow_attention(layer, x, mask, 2)
    np.testing.assert_allclose(np.array(layer(x, mask)), expected, atol=1e-5)
    noisy = mx.array(x)
    noisy[1, 2:] = 100.0
    real = np.array(layer(noisy, mask))[1, :2]
    np.testing.assert_allclose(real, expected[1, :2], atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_a_fully_masked_row_stays_finite_with_its_gradient(dtype):
    layer = make_layer(8, 2, 16)
    layer.set_dtype(dtype)
    x, mask = mx.random.normal((1, 4, 8)).astype(dtype), mx.zeros((1, 4))
    y = layer(x, mask)
    assert y.dtype == dtype
    gradient = mx.grad(lambda v: layer(v, mask).astype(mx.float32).sum())(x)
    for value in (y, gradient):
        assert np.isfinite(np.array(value.astype(mx.float32))).all()


def test_dropout_changes_training_and_leaves_evaluation_alone():
    """The layer's train/eval switch, dropout 0.1."""
    layer = make_layer(8, 2, 16, dropout=0.1)
    x, mask = mx.random.normal((2, 5, 8)), mx.ones((2, 5))
    one, two = (np.array(layer(x, mask, key=mx.random.key(s))) for s in (1, 2))
    assert np.abs(one - two).max() > 1e-3
    with pytest.raises(ValueError, match=r"\[TransformerLayer\] key must be given"):
        layer(x, mask)
    layer.eval()
    plain = make_layer(8, 2, 16)
    plain.update(layer.parameters())
    np.testing.assert_array_equal(np.array(layer(x, mask)), np.array(plain(x, mask)))


def test_dropout_acts_at_the_four_places_of_the_reference_layer(monkeypatch):
    shapes = []

    def watched(x, rate, key):
        shapes.append(x.shape)
        return dropout(x, rate, key)

    monkeypatch.setattr(transformer, "dropout", watched)
    layer = make_layer(8, 2, 16, dropout=0.1)
    layer(mx.random.normal((3, 5, 8)), mx.ones((3, 5)), key=mx.random.key(0))
    assert shapes == [(3, 2, 5, 5), (3, 5, 8), (3, 5, 16), (3, 5, 8)]


def test_linear_layers_start_xavier_uniform_with_zero_bias():
    layer = xavier_linear(30, 60)
    bound = np.sqrt(6 / 90)
    assert 0.9 * bound < float(mx.abs(layer.weight).max()) <= bound
    assert float(mx.abs(layer.bias).max()) == 0


def test_positions_alternate_sine_and_cosine():
    table = np.array(sinusoidal_positions(7, 4))
    for p in range(7):
        np.testing.assert_allclose(
            table[p],
            [np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)],
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfAttention(8, 3, dropout=0.0), "heads must divide dim = 8, got 3"),
        (lambda: sinusoidal_positions(4, 5), "dim must be even, got 5"),
        (lambda: make_layer(8, 2, 4, dropout=1.5), "dropout must be"),
    ],
)
def test_wrong_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def gradients_of(layer, x, mask):
    def loss(parameters, x):
        layer.update(parameters)
        return mx.sum(layer(x, mask) ** 2)

    return mx.grad(loss, argnums=(0, 1))(layer.trainable_parameters(), x)


def test_fused_attention_of_a_gpu_gives_the_same_values_and_gradients(monkeypatch):
    mx.random.seed(3)
    layer, x = SelfAttention(12, 3, dropout=0.2), mx.random.normal((2, 7, 12))
    mask = mx.array(np.arange(7) < np.array([[7], [4]]), mx.float32)
    expected, slopes = layer(x, mask), gradients_of(layer, x, mask)
    fused = mx.fast.scaled_dot_product_attention
    calls = []
    monkeypatch.setattr(transformer, "has_fused_attention", lambda: True)
    monkeypatch.setattr(
        mx.fast,
        "scaled_dot_product_attention",
        lambda *a, **k: calls.append(1) or fused(*a, **k),
    )
    np.testing.assert_allclose(layer(x, mask), expected, atol=1e-6)
    for a, b in zip(
        tree_flatten(gradients_of(layer, x, mask)), tree_flatten(slopes), strict=True
    ):
        np.testing.assert_allclose(a[1], b[1], atol=1e-5, err_msg=a[0])
    assert len(calls) == 2
    layer(x, mask, key=mx.random.key(0))  # its kernel drops nothing out
    assert len(calls) == 2

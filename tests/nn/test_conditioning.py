import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.nn.conditioning import AdditiveConditioning, FiLMConditioning


def unit_rows(n, width):
    z = mx.random.normal((n, width))
    return z / mx.linalg.norm(z, axis=-1, keepdims=True)


def test_additive_conditioning_is_a_linear_map_of_the_scaled_vector():
    layer = AdditiveConditioning(16, 5)
    z = unit_rows(3, 16)
    weight, bias = layer.projection.weight, layer.projection.bias
    expected = 4.0 * np.array(z) @ np.array(weight).T + np.array(bias)
    np.testing.assert_allclose(np.array(layer(z)), expected, atol=1e-5)


def test_unit_vectors_give_features_of_order_one():
    layer = AdditiveConditioning(384, 256)
    assert 0.3 < float(mx.std(layer(unit_rows(8, 384)))) < 1.5


def test_film_takes_the_vector_as_it_is():
    layer = FiLMConditioning(16, 5)
    layer.projection.weight = mx.random.normal((10, 16))
    z = unit_rows(3, 16)
    expected = np.array(z) @ np.array(layer.projection.weight).T
    scale, shift = layer(z)
    np.testing.assert_allclose(np.array(scale)[:, 0], expected[:, :5], atol=1e-5)
    np.testing.assert_allclose(np.array(shift)[:, 0], expected[:, 5:], atol=1e-5)


def test_film_starts_without_effect_and_splits_scale_from_shift():
    layer = FiLMConditioning(16, 5)
    z = unit_rows(3, 16)
    for part in layer(z):
        assert part.shape == (3, 1, 5)
        assert float(mx.abs(part).max()) == 0.0
    layer.projection.bias = mx.arange(10).astype(mx.float32)
    scale, shift = layer(z)
    assert np.array(scale)[0, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.array(shift)[0, 0].tolist() == [5, 6, 7, 8, 9]


def test_conditioning_follows_the_dtype_of_its_weights():
    layer = FiLMConditioning(16, 5)
    layer.set_dtype(mx.bfloat16)
    assert layer(unit_rows(3, 16))[0].dtype == mx.bfloat16


@pytest.mark.parametrize("kind", [AdditiveConditioning, FiLMConditioning])
def test_a_vector_of_another_width_is_refused(kind):
    with pytest.raises(
        ValueError, match=r"z must be \[B, E\] with E = 16, got \[3, 8\]"
    ):
        kind(16, 5)(mx.zeros((3, 8)))

"""Layer norm: the reference against the formula, the kernels against it."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import layer_norm
from tests.ops.comparison import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_same_bits,
    name_of,
)

EPS = 1e-5
# Rows and features: one row; off the vector width; whole packs; two packs a lane;
# more than one row a unit.
SHAPES = [(1, 4), (5, 3), (2, 3, 64), (3, 300), (2101, 5)]


def sample(shape, dtype=mx.float32):
    width = shape[-1]
    arrays = [2 * mx.random.normal(s) + 0.5 for s in (shape, (width,), (width,))]
    return [a.astype(dtype) for a in arrays]


def value_and_gradients(arrays, backend):
    g = mx.random.normal(arrays[0].shape, key=mx.random.key(1)).astype(arrays[0].dtype)
    (y,), gradients = mx.vjp(
        lambda *a: layer_norm(*a, EPS, backend=backend), arrays, [g]
    )
    return [y, *gradients]


def test_reference_is_the_formula():
    x, weight, bias = sample((5, 7))
    wide = np.array(x, np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    xhat = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPS)
    found = layer_norm(x, weight, bias, EPS, backend="reference")
    np.testing.assert_allclose(
        found, xhat * np.array(weight) + np.array(bias), atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_match_reference(gpu_backend, shape, dtype):
    arrays = sample(shape, dtype)
    # The reference in float32: in a half format it rounds before it sums.
    exact = value_and_gradients([a.astype(mx.float32) for a in arrays], "reference")
    tolerance = {mx.float32: 3e-5}.get(dtype, 2 * TOLERANCE[dtype])
    for a, b in zip(value_and_gradients(arrays, gpu_backend), exact, strict=True):
        assert a.dtype == dtype
        assert_close(a.astype(mx.float32), b, tolerance)


def test_kernels_take_strided_and_offset_views(gpu_backend):
    x = mx.random.normal((9, 16))
    for view in (x[1:], x[::2], x[:, 3:], x.T):
        _, *weights = sample(view.shape)
        ours = value_and_gradients([view, *weights], gpu_backend)
        expected = value_and_gradients([view, *weights], "reference")
        for a, b in zip(ours, expected, strict=True):
            assert_close(a, b, 3e-5)


def test_weights_of_another_format_get_gradients_in_their_own(gpu_backend):
    x, weight, bias = sample((4, 8))
    arrays = [x.astype(mx.bfloat16), weight, bias]
    dtypes = [a.dtype for a in value_and_gradients(arrays, gpu_backend)]
    assert dtypes == [mx.bfloat16, mx.bfloat16, mx.float32, mx.float32]


def test_equal_input_gives_equal_bits(gpu_backend):
    arrays = sample((70, 33), mx.bfloat16)
    runs = [value_and_gradients(arrays, gpu_backend) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


def test_second_gradient_matches_reference(gpu_backend):
    x, weight, bias = sample((3, 5))

    def curvature(backend):
        def loss(x):
            return (layer_norm(x, weight, bias, EPS, backend=backend) ** 3).sum()

        return mx.grad(lambda x: (mx.grad(loss)(x) ** 2).sum())(x)

    assert_close(curvature(gpu_backend), curvature("reference"), 1e-4)


def test_wide_rows_and_empty_arrays_need_no_kernel(gpu_backend):
    for shape in ((2, 2049), (0, 4)):
        arrays = sample(shape)
        assert layer_norm(*arrays, EPS, backend=gpu_backend).shape == shape


def test_wrong_arguments_are_named():
    x, weight, bias = sample((3, 4))
    with pytest.raises(ValueError, match=r"must be \[D\] = \[4\], got \[3\] and"):
        layer_norm(x, weight[1:], bias, EPS)
    with pytest.raises(TypeError, match="x must be a float array, got .*int32"):
        layer_norm(x.astype(mx.int32), weight, bias, EPS)

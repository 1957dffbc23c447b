"""GELU: the plain form against its formula, the kernels against the plain form."""

import math

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import gelu
from energyflow_mlx.ops.gelu import gelu_reference
from tests.ops.comparison import DTYPES, assert_close, assert_same_bits, name_of

# Fewer values than a pack, off the vector width, whole packs, more than one group.
SHAPES = [(2,), (3, 5), (2, 4, 8), (1100, 3)]


def sample(shape, dtype=mx.float32):
    x = 3 * mx.random.normal(shape, key=mx.random.key(sum(shape)))
    return x.astype(dtype)


def value_and_gradient(x, backend):
    g = mx.random.normal(x.shape, key=mx.random.key(1)).astype(x.dtype)
    (y,), (gx,) = mx.vjp(lambda a: gelu(a, backend=backend), [x], [g])
    return y, gx


def test_reference_is_the_formula():
    x = np.linspace(-9, 9, 999)
    expected = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    found = gelu_reference(mx.array(x.astype(np.float32)))
    np.testing.assert_allclose(np.array(found), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_match_reference(gpu_backend, shape, dtype):
    x = sample(shape, dtype)
    ours = value_and_gradient(x, gpu_backend)
    for a, b in zip(ours, value_and_gradient(x, "reference"), strict=True):
        assert_close(a, b)


def test_kernels_are_within_2e_6_of_float64(gpu_backend):
    x = mx.linspace(-9, 9, 4001)
    wide = np.array(x, np.float64)
    share = (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
    slope = share + wide * np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    (y,), (gx,) = mx.vjp(lambda a: gelu(a, backend=gpu_backend), [x], [mx.ones_like(x)])
    np.testing.assert_allclose(np.array(y), wide * share, atol=2e-6)
    np.testing.assert_allclose(np.array(gx), slope, atol=2e-6)


def test_kernels_take_strided_and_offset_views(gpu_backend):
    x = sample((9, 16))
    for view in (x[1:], x[::2], x[:, 3:], x.T):
        ours = value_and_gradient(view, gpu_backend)
        for a, b in zip(ours, value_and_gradient(view, "reference"), strict=True):
            assert_close(a, b)


def test_huge_values_pass_or_vanish_and_nan_stays(gpu_backend):
    x = mx.array([1e30, -1e30, float("nan"), 0.0])
    y = gelu(x, backend=gpu_backend)
    assert y[0].item() == pytest.approx(1e30)
    assert abs(y[1].item()) < 1e24  # rounding of 1 + erf
    assert math.isnan(y[2].item())
    assert y[3].item() == 0.0


def test_equal_input_gives_equal_bits(gpu_backend):
    x = sample((70, 33))
    for a, b in zip(*(value_and_gradient(x, gpu_backend) for _ in "12"), strict=True):
        assert_same_bits(a, b)


def test_second_gradient_matches_reference(gpu_backend):
    x = sample((3, 5))

    def curvature(backend):
        def loss(x):
            return (gelu(x, backend=backend) ** 2).sum()

        return mx.grad(lambda x: (mx.grad(loss)(x) ** 2).sum())(x)

    assert_close(curvature(gpu_backend), curvature("reference"))


def test_checkpoint_keeps_the_kernel_gradient(gpu_backend):
    x = sample((3, 5))
    found = mx.grad(mx.checkpoint(lambda x: gelu(x, backend=gpu_backend).sum()))(x)
    assert_close(found, mx.grad(lambda x: gelu_reference(x).sum())(x))


@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_empty_arrays_need_no_kernel(gpu_backend, shape):
    assert gelu(mx.zeros(shape), backend=gpu_backend).shape == shape


def test_wrong_dtype_is_named():
    with pytest.raises(TypeError, match="x must be a float array, got .*int32"):
        gelu(mx.zeros((2,), mx.int32))

"""Layer norm: the native form against the formula and MLX's, value and gradients."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import layer_norm
from energyflow_mlx.ops._backend import available
from energyflow_mlx.ops.layer_norm import layer_norm_reference
from tests.ops.comparison import (
    TOLERANCE,
    as_numpy,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

pytestmark = pytest.mark.skipif(not available("cpu"), reason="no compiler")
native = partial(layer_norm, backend="cpu")
EPS = 1e-5


def sample(shape, with_added, seed=0):
    draw = np.random.default_rng(seed)

    def normal(*s):
        return mx.array(draw.standard_normal(s).astype(np.float32))

    arrays = [normal(*shape) + 3, 1 + normal(shape[-1]), normal(shape[-1])]
    return arrays + ([normal(shape[0], shape[2])] if with_added else []), normal(*shape)


def results(function, arrays, gy):
    def call(x, weight, bias, *added):
        return function(x, weight, bias, EPS, *added)

    (y,), gradients = mx.vjp(call, arrays, [gy])
    return [y, *gradients]


@pytest.mark.parametrize("with_added", [False, True], ids=["plain", "added"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 5), (3, 7, 16), (2, 3, 1), (70, 9, 33), (2, 300, 20)], ids=str
)
def test_native_equals_reference(shape, with_added):
    arrays, gy = sample(shape, with_added)
    found, expected = (results(f, arrays, gy) for f in (native, layer_norm_reference))
    for a, b in zip(found, expected, strict=True):
        if shape[-1] == 1:  # nothing varies: only the bias is left
            np.testing.assert_allclose(as_numpy(a), as_numpy(b), atol=1e-3)
        else:
            assert_close(a, b)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)], ids=str)
def test_any_number_of_axes(shape):
    arrays, gy = sample(shape, with_added=False)
    found, expected = (results(f, arrays, gy) for f in (native, layer_norm_reference))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_a_far_mean_costs_no_accuracy():
    arrays, _ = sample((4, 5, 64), with_added=False)
    x = np.array(arrays[0], np.float64) + 500
    v = x - x.mean(-1, keepdims=True)
    v = v / np.sqrt((v**2).mean(-1, keepdims=True) + EPS)
    expected = v * np.array(arrays[1], np.float64) + np.array(arrays[2], np.float64)
    y = native(mx.array(x.astype(np.float32)), *arrays[1:], EPS)
    np.testing.assert_allclose(np.array(y), expected, atol=5e-4)


def test_gradients_are_finite_differences():
    arrays, gy = sample((3, 4, 8), with_added=True)
    gradients = results(native, arrays, gy)[1:]
    for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        direction = mx.random.normal(array.shape, key=mx.random.key(i))

        def along(moved, i=i):
            x, weight, bias, added = [*arrays[:i], moved, *arrays[i + 1 :]]
            return (native(x, weight, bias, EPS, added) * gy).sum().item()

        assert (gradient * direction).sum().item() == pytest.approx(
            finite_difference(along, array, direction), rel=2e-2, abs=2e-2
        )


@pytest.mark.parametrize("wrap", [mx.compile, mx.checkpoint], ids=["compile", "ckpt"])
def test_works_inside_transforms(wrap):
    arrays, gy = sample((3, 4, 8), with_added=True)

    def loss(x, weight, bias, added):
        return (native(x, weight, bias, EPS, added) * gy).sum()

    found = mx.grad(wrap(loss), argnums=(0, 1, 2, 3))(*arrays)
    for a, b in zip(found, results(native, arrays, gy)[1:], strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=name_of)
def test_half_precision_computes_in_float32(dtype):
    arrays, _ = sample((3, 4, 8), with_added=True)
    x, weight, bias, added = (a.astype(dtype) for a in arrays)
    y = native(x, weight, bias, EPS, added)
    wide = [a.astype(mx.float32) for a in (x, weight, bias)]
    expected = layer_norm_reference(*wide, EPS, added.astype(mx.float32))
    assert y.dtype == dtype
    error = np.abs(as_numpy(y) - as_numpy(expected)).max()
    assert error <= TOLERANCE[dtype] * np.abs(as_numpy(expected)).max()


def test_added_that_does_not_fit_is_named():
    weight = mx.ones(6)
    with pytest.raises(ValueError, match=r"\[layer_norm\] added must be \[B, D\]"):
        layer_norm(mx.zeros((2, 3, 6)), weight, weight, EPS, mx.zeros((3, 6)))

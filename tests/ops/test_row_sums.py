"""Linear and layer norm: the form for a GPU has the values and gradients of MLX's."""

from functools import partial

import mlx.core as mx
import pytest

from energyflow_mlx.ops import _backend, layer_norm, linear
from energyflow_mlx.ops.row_sums import row_sum
from tests.ops.comparison import DTYPES, assert_close, name_of

SHAPES = [(1, 1), (7, 5), (2, 3, 8), (2, 40, 33)]
norm = partial(layer_norm, eps=1e-5)


@pytest.fixture
def on_gpu(monkeypatch):
    """Take the form for a GPU on any device; it is plain MLX."""
    monkeypatch.setattr(_backend, "on_gpu", lambda: True)


def arguments(function, shape, dtype):
    width = shape[-1]
    shapes = {linear: [shape, (6, width), (6,)], norm: [shape, (width,), (width,)]}
    return [mx.random.normal(s).astype(dtype) for s in shapes[function]]


def plain_linear(x, weight, bias):
    return x @ weight.T + bias


def plain_norm(x, weight, bias):
    return mx.fast.layer_norm(x, weight, bias, 1e-5)


PLAIN = {linear: plain_linear, norm: plain_norm}


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", PLAIN, ids=["linear", "layer_norm"])
def test_values_and_gradients_are_those_of_mlx(on_gpu, function, shape, dtype):
    primals = arguments(function, shape, mx.float32)
    g = mx.random.normal(PLAIN[function](*primals).shape)
    expected, wanted = mx.vjp(PLAIN[function], primals, [g])
    half = [a.astype(dtype) for a in primals]
    found, gradients = mx.vjp(function, half, [g.astype(dtype)])
    tolerance = {mx.float32: 2e-5, mx.float16: 1e-2, mx.bfloat16: 8e-2}[dtype]
    for a, b in zip([*found, *gradients], [*expected, *wanted], strict=True):
        assert a.dtype == dtype
        if shape != (1, 1) or b.size == 6:  # a lone feature has no variance
            assert_close(a.astype(mx.float32), b, tolerance)


def test_a_cpu_keeps_the_sums_of_mlx():
    assert _backend.on_gpu() == (mx.default_device().type == mx.DeviceType.gpu)


def test_row_sum_is_the_sum_of_the_rows():
    assert row_sum(mx.array([[1.0, 2], [3, 4], [5, 6]])).tolist() == [9, 12]

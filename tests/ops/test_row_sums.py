"""Linear: the form for a GPU has the values and gradients of MLX's."""

import mlx.core as mx
import pytest

from energyflow_mlx.ops import _backend, linear
from energyflow_mlx.ops.row_sums import row_sum
from tests.ops.comparison import DTYPES, assert_close, name_of

SHAPES = [(1, 1), (7, 5), (2, 3, 8), (2, 40, 33)]


@pytest.fixture
def on_gpu(monkeypatch):
    """Take the form for a GPU on any device; it is plain MLX."""
    monkeypatch.setattr(_backend, "on_gpu", lambda: True)


def plain(x, weight, bias):
    return x @ weight.T + bias


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_mlx(on_gpu, shape, dtype):
    primals = [mx.random.normal(s) for s in (shape, (6, shape[-1]), (6,))]
    g = mx.random.normal((*shape[:-1], 6))
    expected, wanted = mx.vjp(plain, primals, [g])
    half = [a.astype(dtype) for a in primals]
    found, gradients = mx.vjp(linear, half, [g.astype(dtype)])
    tolerance = {mx.float32: 2e-5, mx.float16: 1e-2, mx.bfloat16: 8e-2}[dtype]
    for a, b in zip([*found, *gradients], [*expected, *wanted], strict=True):
        assert a.dtype == dtype
        assert_close(a.astype(mx.float32), b, tolerance)


def test_a_cpu_keeps_the_sums_of_mlx():
    assert _backend.on_gpu() == (mx.default_device().type == mx.DeviceType.gpu)


def test_row_sum_is_the_sum_of_the_rows():
    assert row_sum(mx.array([[1.0, 2], [3, 4], [5, 6]])).tolist() == [9, 12]

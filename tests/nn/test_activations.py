import math
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from energyflow_mlx.nn.activations import activation, fast_exp, gelu, gelu_approx

POINTS = np.linspace(-10, 10, 40001).astype(np.float32)
X64 = POINTS.astype(np.float64)
ERF = np.vectorize(math.erf)(X64 / math.sqrt(2))
EXACT = 0.5 * X64 * (1 + ERF)
EXACT_SLOPE = 0.5 * (1 + ERF) + X64 * np.exp(-(X64**2) / 2) / math.sqrt(2 * math.pi)
U = math.sqrt(2 / math.pi) * (X64 + 0.044715 * X64**3)
DU = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * X64**2)
TANH = 0.5 * X64 * (1 + np.tanh(U))
TANH_SLOPE = 0.5 * (1 + np.tanh(U)) + 0.5 * X64 * (1 - np.tanh(U) ** 2) * DU
FORMS = [
    pytest.param(gelu, EXACT, EXACT_SLOPE, id="exact"),
    pytest.param(gelu_approx, TANH, TANH_SLOPE, id="tanh"),
]


def slope(function):
    return mx.grad(lambda x: function(x).sum())


@pytest.mark.parametrize("wrap", [lambda f: f, mx.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize(("form", "value", "derivative"), FORMS)
def test_gelu_and_its_gradient_are_within_2e_6_of_float64(
    form, value, derivative, wrap
):
    """T16: each form is the one its name says, and the two differ."""
    x = mx.array(POINTS)
    assert np.abs(np.array(wrap(form)(x)) - value).max() < 2e-6
    assert np.abs(np.array(wrap(slope(form))(x)) - derivative).max() < 2.5e-6


def test_t16_the_two_forms_differ_and_are_chosen_by_name():
    assert np.abs(EXACT - TANH).max() > 1e-4
    assert activation("exact") is gelu
    assert activation("tanh") is gelu_approx
    with pytest.raises(ValueError, match=r"\[activation\] name must be one of"):
        activation("relu")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(mx.float16, 5e-3), (mx.bfloat16, 4e-2)]
)
@pytest.mark.parametrize(("form", "value", "derivative"), FORMS)
def test_half_precision_computes_in_float32(form, value, derivative, dtype, tolerance):
    x = mx.array(POINTS).astype(dtype)
    y = form(x)
    assert y.dtype == dtype
    exact_input = np.array(x.astype(mx.float32))
    expected = np.array(form(mx.array(exact_input)).astype(dtype).astype(mx.float32))
    np.testing.assert_array_equal(np.array(y.astype(mx.float32)), expected)
    assert np.abs(np.array(y.astype(mx.float32)) - value).max() < tolerance
    dx = slope(form)(x)
    assert dx.dtype == dtype
    assert np.abs(np.array(dx.astype(mx.float32)) - derivative).max() < tolerance


@pytest.mark.parametrize("form", [gelu, gelu_approx])
def test_extremes_stay_finite_and_nan_stays_nan(form):
    x = mx.array([1e30, -1e30, 3e38, 0.0, float("nan")])
    y = np.array(form(x))
    np.testing.assert_allclose(y[:4], [1e30, 0, 3e38, 0], rtol=1e-6, atol=1e-6)
    assert np.isnan(y[4])
    dx = np.array(slope(form)(x))
    np.testing.assert_allclose(dx[[0, 1, 3]], [1, 0, 0.5], atol=1e-6)
    assert np.isnan(dx[4])


@pytest.mark.parametrize("form", [gelu, gelu_approx])
def test_strided_input_equals_contiguous_input(form):
    x = mx.random.normal((33, 7, 4))
    np.testing.assert_array_equal(
        np.array(form(x.transpose(2, 0, 1)[::2])),
        np.array(form(x)).transpose(2, 0, 1)[::2],
    )


def test_gradient_under_vmap_is_right_too():
    """MLX ignores custom gradients under vmap; plain autodiff must then agree."""
    x = mx.random.normal((5, 8)) * 3
    direct = slope(gelu)(x)
    mapped = mx.grad(lambda v: mx.vmap(gelu)(v).sum())(x)
    np.testing.assert_allclose(np.array(mapped), np.array(direct), atol=1e-4)


def test_fast_exp_is_accurate_saturates_and_keeps_nan():
    x = np.linspace(-10, 10, 20001).astype(np.float32)
    ratio = np.array(fast_exp(mx.array(x))) / np.exp(x.astype(np.float64))
    assert np.abs(ratio - 1).max() < 1e-6
    far = np.array(fast_exp(mx.array([-1e9, -math.inf, 1e9, 0.0, math.nan])))
    assert 0 <= far[0] < 2e-38 and 0 <= far[1] < 2e-38
    assert far[2] > 1e38 and far[3] == pytest.approx(1, abs=1e-6) and np.isnan(far[4])


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a CPU figure")
def test_gelu_step_on_cpu_is_much_cheaper_than_the_library_form():
    """Forward and backward together against mlx.nn.gelu, interleaved, best of ten."""
    x = mx.random.normal((256, 512))
    steps = {
        name: mx.compile(mx.grad(lambda v, f=f: (f(v) * v).sum()))
        for name, f in (("ours", gelu), ("library", nn.gelu))
    }
    best = dict.fromkeys(steps, math.inf)
    for _ in range(10):
        for name, step in steps.items():
            start = time.perf_counter()
            mx.eval(step(x))
            best[name] = min(best[name], time.perf_counter() - start)
    assert best["ours"] < 0.6 * best["library"]

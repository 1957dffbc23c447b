"""GELU: reference and native form against the formula, the kernels against it."""

import math
import time
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from energyflow_mlx.ops import gelu
from energyflow_mlx.ops.gelu import gelu_reference
from tests.ops.comparison import DTYPES, assert_close, assert_same_bits, name_of

# Fewer values than a pack, off the vector width, whole packs, more than one group.
SHAPES = [(2,), (3, 5), (2, 4, 8), (1100, 3)]
POINTS = np.linspace(-10, 10, 40001).astype(np.float32)
X64 = POINTS.astype(np.float64)
ERF = np.vectorize(math.erf)(X64 / math.sqrt(2))
U = math.sqrt(2 / math.pi) * (X64 + 0.044715 * X64**3)
DU = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * X64**2)
# Value and slope of each form in float64.
EXPECTED = {
    "exact": (
        0.5 * X64 * (1 + ERF),
        0.5 * (1 + ERF) + X64 * np.exp(-(X64**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "tanh": (
        0.5 * X64 * (1 + np.tanh(U)),
        0.5 * (1 + np.tanh(U)) + 0.5 * X64 * (1 - np.tanh(U) ** 2) * DU,
    ),
}
every_form = pytest.mark.parametrize("form", EXPECTED)
every_plain = pytest.mark.parametrize(
    "plain", [gelu_reference, partial(gelu, backend="cpu")], ids=["reference", "native"]
)


def sample(shape, dtype=mx.float32):
    x = 3 * mx.random.normal(shape, key=mx.random.key(sum(shape)))
    return x.astype(dtype)


def value_and_gradient(x, form, backend):
    g = mx.random.normal(x.shape, key=mx.random.key(1)).astype(x.dtype)
    (y,), (gx,) = mx.vjp(lambda a: gelu(a, form, backend=backend), [x], [g])
    return y, gx


def slope(function):
    return mx.grad(lambda x: function(x).sum())


@pytest.mark.parametrize("wrap", [lambda f: f, mx.compile], ids=["eager", "compiled"])
@every_plain
@every_form
def test_plain_forms_and_their_gradients_are_within_2e_6_of_float64(plain, form, wrap):
    value, derivative = EXPECTED[form]
    function, x = partial(plain, form=form), mx.array(POINTS)
    assert np.abs(np.array(wrap(function)(x)) - value).max() < 2e-6
    assert np.abs(np.array(wrap(slope(function))(x)) - derivative).max() < 2.5e-6


def test_the_two_forms_differ():
    assert np.abs(EXPECTED["exact"][0] - EXPECTED["tanh"][0]).max() > 1e-4


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a CPU's choice")
@every_form
def test_auto_on_a_cpu_is_the_native_form(form):
    x = mx.array(POINTS)
    assert_same_bits(gelu(x, form), gelu(x, form, backend="cpu"))
    assert not mx.array_equal(gelu(x, form), gelu(x, form, backend="reference"))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(mx.float16, 5e-3), (mx.bfloat16, 4e-2)]
)
@every_form
def test_half_precision_computes_in_float32(form, dtype, tolerance):
    value, derivative = EXPECTED[form]
    x = mx.array(POINTS).astype(dtype)
    y = gelu(x, form)
    assert y.dtype == dtype
    assert_same_bits(y, gelu(x.astype(mx.float32), form).astype(dtype))
    assert np.abs(np.array(y.astype(mx.float32)) - value).max() < tolerance
    dx = slope(partial(gelu, form=form))(x)
    assert dx.dtype == dtype
    assert np.abs(np.array(dx.astype(mx.float32)) - derivative).max() < tolerance


@every_form
def test_extremes_stay_finite_and_nan_stays_nan(form):
    x = mx.array([1e30, -1e30, 3e38, 0.0, float("nan")])
    y = np.array(gelu(x, form))
    np.testing.assert_allclose(y[:4], [1e30, 0, 3e38, 0], rtol=1e-6, atol=1e-6)
    assert np.isnan(y[4])
    dx = np.array(slope(partial(gelu, form=form))(x))
    np.testing.assert_allclose(dx[[0, 1, 3]], [1, 0, 0.5], atol=1e-6)
    assert np.isnan(dx[4])


@every_form
def test_strided_input_equals_contiguous_input(form):
    x = mx.random.normal((33, 7, 4))
    expected = gelu(x, form).transpose(2, 0, 1)[::2]
    assert_same_bits(gelu(x.transpose(2, 0, 1)[::2], form), expected)


def test_native_form_refuses_vmap_and_the_reference_maps():
    """MLX ignores custom gradients under vmap; plain autodiff must then agree."""
    x = mx.random.normal((5, 8)) * 3
    with pytest.raises(ValueError, match="vmap"):
        mx.eval(mx.vmap(partial(gelu, backend="cpu"))(x))
    mapped = mx.grad(lambda v: mx.vmap(gelu_reference)(v).sum())(x)
    np.testing.assert_allclose(np.array(mapped), np.array(slope(gelu)(x)), atol=1e-4)


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a CPU figure")
def test_step_on_cpu_is_much_cheaper_than_the_library_form():
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


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_form
def test_kernels_match_reference(gpu_backend, form, shape, dtype):
    x = sample(shape, dtype)
    ours = value_and_gradient(x, form, gpu_backend)
    for a, b in zip(ours, value_and_gradient(x, form, "reference"), strict=True):
        assert_close(a, b)


@every_form
def test_kernels_are_within_2e_6_of_float64(gpu_backend, form):
    value, derivative = (a[::10] for a in EXPECTED[form])
    x = mx.array(POINTS[::10])
    kernel = partial(gelu, form=form, backend=gpu_backend)
    (y,), (gx,) = mx.vjp(kernel, [x], [mx.ones_like(x)])
    np.testing.assert_allclose(np.array(y), value, atol=2e-6)
    np.testing.assert_allclose(np.array(gx), derivative, atol=2.5e-6)


@every_form
def test_kernels_take_strided_and_offset_views(gpu_backend, form):
    x = sample((9, 16))
    for view in (x[1:], x[::2], x[:, 3:], x.T):
        ours = value_and_gradient(view, form, gpu_backend)
        for a, b in zip(ours, value_and_gradient(view, form, "reference"), strict=True):
            assert_close(a, b)


@every_form
def test_huge_values_pass_or_vanish_and_nan_stays(gpu_backend, form):
    x = mx.array([1e30, -1e30, float("nan"), 0.0])
    y, gx = value_and_gradient(x, form, gpu_backend)
    assert y[0].item() == pytest.approx(1e30)
    assert abs(y[1].item()) < 1e24  # rounding of 1 + erf
    assert math.isnan(y[2].item())
    assert y[3].item() == 0.0
    assert math.isnan(gx[2].item())


@every_form
def test_equal_input_gives_equal_bits(gpu_backend, form):
    x = sample((70, 33))
    runs = [value_and_gradient(x, form, gpu_backend) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


@every_form
def test_second_gradient_matches_reference(gpu_backend, form):
    x = sample((3, 5))

    def curvature(backend):
        def loss(x):
            return (gelu(x, form, backend=backend) ** 2).sum()

        return mx.grad(lambda x: (mx.grad(loss)(x) ** 2).sum())(x)

    assert_close(curvature(gpu_backend), curvature("reference"))


def test_checkpoint_keeps_the_kernel_gradient(gpu_backend):
    x = sample((3, 5))
    found = mx.grad(mx.checkpoint(lambda x: gelu(x, backend=gpu_backend).sum()))(x)
    assert_close(found, mx.grad(lambda x: gelu_reference(x).sum())(x))


@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_empty_arrays_need_no_kernel(gpu_backend, shape):
    assert gelu(mx.zeros(shape), backend=gpu_backend).shape == shape


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="x must be a float array, got .*int32"):
        gelu(mx.zeros((2,), mx.int32))
    with pytest.raises(ValueError, match="form must be exact or tanh, got 'erf'"):
        gelu(mx.zeros((2,)), "erf")

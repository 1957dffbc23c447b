"""Causal convolution: columns, their adjoint, and the convolution built on them."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import causal_conv1d, causal_im2col
from energyflow_mlx.ops.causal_im2col import (
    causal_col2im_reference,
    causal_im2col_reference,
)
from tests.ops.comparison import (
    DTYPES,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

# (B, L, C, K, dilation): one step, L = K - 1, reach beyond the start, off the vector
# and tile width, several blocks of times.
CASES = [
    (2, 9, 33, 3, 2),
    (1, 1, 3, 3, 1),
    (2, 2, 8, 3, 1),
    (1, 5, 4, 5, 8),
    (1, 40, 130, 3, 4),
    (2, 7, 5, 1, 1),
]


def reference_convolution(x, weight, bias, dilation):
    """The formula of the convolution, in NumPy and float64."""
    x, weight, bias = (np.array(a, np.float64) for a in (x, weight, bias))
    batch, length, _ = x.shape
    out, taps, _ = weight.shape
    y = np.broadcast_to(bias, (batch, length, out)).copy()
    for t in range(length):
        for k in range(taps):
            source = t - (taps - 1 - k) * dilation
            if source >= 0:
                y[:, t] += x[:, source] @ weight[:, k].T
    return y.astype(np.float32)


def parameters(channels, out, taps):
    weight = mx.random.normal((out, taps, channels)) * 0.3
    return weight, mx.random.normal((out,))


def convolution_gradients(x, weight, bias, dilation, backend="auto"):
    shape = (*x.shape[:2], weight.shape[0])
    weighting = mx.random.normal(shape, key=mx.random.key(3))

    def loss(x, weight, bias):
        y = causal_conv1d(x, weight, bias, dilation, backend=backend)
        return (y.astype(mx.float32) * weighting).sum()

    return mx.grad(loss, argnums=(0, 1, 2))(x, weight, bias)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_columns_hold_the_shifted_samples(case):
    batch, length, channels, taps, dilation = case
    x = mx.random.normal((batch, length, channels))
    columns = np.array(causal_im2col(x, taps, dilation))
    columns = columns.reshape(batch, length, taps, channels)
    for k in range(taps):
        shift = min((taps - 1 - k) * dilation, length)
        assert not columns[:, :shift, k].any()
        assert (columns[:, shift:, k] == np.array(x)[:, : length - shift]).all()


def test_col2im_is_the_adjoint_of_im2col():
    x, g = mx.random.normal((2, 9, 5)), mx.random.normal((2, 9, 15))
    forward = (causal_im2col_reference(x, 3, 4) * g).sum()
    backward = (x * causal_col2im_reference(g, 3, 4)).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_match_reference(gpu_backend, case, dtype):
    batch, length, channels, taps, dilation = case
    x = mx.random.normal((batch, length, channels)).astype(dtype)
    g = mx.random.normal((batch, length, taps * channels)).astype(dtype)

    def columns(x):
        return causal_im2col(x, taps, dilation, backend=gpu_backend)

    (y,), (gx,) = mx.vjp(columns, [x], [g])
    assert_same_bits(y, causal_im2col_reference(x, taps, dilation))
    assert_close(gx, causal_col2im_reference(g, taps, dilation))


def test_kernels_take_strided_and_offset_views(gpu_backend):
    x = mx.random.normal((4, 12, 16))
    for view in (x[::2], x[1:], x[..., 3:], x[:, ::3]):
        columns = causal_im2col(view, 3, 2, backend=gpu_backend)
        assert_same_bits(columns, causal_im2col_reference(view, 3, 2))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_matches_its_formula(case):
    batch, length, channels, taps, dilation = case
    x = mx.random.normal((batch, length, channels))
    weight, bias = parameters(channels, 6, taps)
    y = causal_conv1d(x, weight, bias, dilation)
    expected = mx.array(reference_convolution(x, weight, bias, dilation))
    assert_close(y, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_matches_conv1d_on_padded_input(case):
    batch, length, channels, taps, dilation = case
    x = mx.random.normal((batch, length, channels))
    weight, bias = parameters(channels, 6, taps)
    weighting = mx.random.normal((batch, length, 6), key=mx.random.key(3))

    def loss(x, weight, bias):
        padded = mx.pad(x, [(0, 0), ((taps - 1) * dilation, 0), (0, 0)])
        y = mx.conv1d(padded, weight, dilation=dilation) + bias
        return (y * weighting).sum()

    expected = mx.grad(loss, argnums=(0, 1, 2))(x, weight, bias)
    actual = convolution_gradients(x, weight, bias, dilation)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


def test_gradients_match_finite_differences():
    x = mx.random.normal((2, 6, 3))
    weight, bias = parameters(3, 4, 3)

    def loss(x, weight, bias):
        return (causal_conv1d(x, weight, bias, 2) ** 2).sum()

    gradients = mx.grad(loss, argnums=(0, 1, 2))(x, weight, bias)
    arguments = [x, weight, bias]
    for i, gradient in enumerate(gradients):
        direction = mx.random.normal(gradient.shape)

        def along(value, i=i):
            return loss(*arguments[:i], value, *arguments[i + 1 :])

        slope = float((gradient * direction).sum())
        expected = finite_difference(along, arguments[i], direction)
        assert slope == pytest.approx(expected, rel=2e-3)


def test_later_sample_cannot_change_earlier_output():
    x = mx.random.normal((1, 12, 4))
    weight, bias = parameters(4, 4, 3)
    changed = mx.concatenate([x[:, :7], x[:, 7:] + 1], axis=1)
    before, after = (causal_conv1d(a, weight, bias, 2) for a in (x, changed))
    assert (before[:, :7] == after[:, :7]).all()
    assert (before[:, 7:] != after[:, 7:]).any()


def test_bias_may_be_absent():
    x = mx.random.normal((2, 5, 3))
    weight, _ = parameters(3, 4, 3)
    assert_close(
        causal_conv1d(x, weight, None, 2), causal_conv1d(x, weight, mx.zeros(4), 2)
    )


def test_convolution_gradients_match_on_kernels(gpu_backend):
    x = mx.random.normal((2, 9, 5))
    weight, bias = parameters(5, 6, 3)
    expected = convolution_gradients(x, weight, bias, 2, "reference")
    actual = convolution_gradients(x, weight, bias, 2, gpu_backend)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


def test_second_gradient_matches_reference(gpu_backend):
    x = mx.random.normal((1, 6, 4))

    def curvature(backend):
        def loss(x):
            return (causal_im2col(x, 3, 2, backend=backend) ** 3).sum()

        return mx.grad(lambda x: (mx.grad(loss)(x) ** 2).sum())(x)

    assert_close(curvature(gpu_backend), curvature("reference"))


def test_checkpoint_keeps_the_kernel_gradient(gpu_backend):
    x = mx.random.normal((1, 6, 4))

    def gradient(backend, wrap):
        f = wrap(lambda x: causal_im2col(x, 3, 2, backend=backend))
        return mx.grad(lambda x: (f(x) ** 2).sum())(x)

    expected = gradient("reference", lambda f: f)
    assert_close(gradient(gpu_backend, mx.checkpoint), expected)


def test_taps_beyond_the_start_cost_nothing_and_get_no_gradient():
    x = mx.random.normal((2, 4, 3))
    weight, bias = parameters(3, 5, 5)
    _, gweight, _ = convolution_gradients(x, weight, bias, 8)
    assert not gweight[:, :4].any()
    assert gweight[:, 4].all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3)], ids=str)
def test_empty_axes_need_no_kernel(gpu_backend, shape):
    columns = causal_im2col(mx.zeros(shape), 3, 2, backend=gpu_backend)
    assert columns.shape == (*shape[:2], 3 * shape[2])


def test_wrong_arguments_are_named():
    x = mx.zeros((2, 3, 4))
    with pytest.raises(ValueError, match=r"x must be \[B, L, C\], got \[2, 3\]"):
        causal_im2col(x[..., 0], 3, 1)
    with pytest.raises(ValueError, match="at least 1, got 3 and 0"):
        causal_im2col(x, 3, 0)
    with pytest.raises(TypeError, match="x must be a float array"):
        causal_im2col(x.astype(mx.int32), 3, 1)
    with pytest.raises(ValueError, match=r"weight must be \[C_out, K, 4\]"):
        causal_conv1d(x, mx.zeros((6, 3, 5)), None, 1)
    with pytest.raises(ValueError, match=r"bias must be \[6\], got \[5\]"):
        causal_conv1d(x, mx.zeros((6, 3, 4)), mx.zeros(5), 1)

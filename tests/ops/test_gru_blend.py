"""GRU blend: reference against formula, native form and kernels against it."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import even_columns, gate_products, gru_blend
from energyflow_mlx.ops.gru_blend import product_of_rows
from tests.ops.comparison import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_same_bits,
    name_of,
)

# Off the SIMD width, off the vector width, one row, several tiles of channels, several
# blocks of rows, and whole packs in every dtype.
SHAPES = [(1, 1), (3, 33), (2, 300), (70, 8), (33, 136), (64, 3)]


def sample(shape, dtype=mx.float32):
    """Hidden state, both parts of the gates side by side, and the biases."""
    rows, width = shape
    keys = mx.random.split(mx.random.key(rows * 1000 + width), 5)
    shapes = [shape, *[(rows, 3 * width)] * 2, (3 * width,), (width,)]
    return [
        (0.7 * mx.random.normal(s, key=k)).astype(dtype)
        for s, k in zip(shapes, keys, strict=True)
    ]


def value_and_gradients(arrays, backend):
    weight = mx.random.normal(arrays[0].shape, key=mx.random.key(1))
    blend = partial(gru_blend, backend=backend)
    (y,), found = mx.vjp(blend, arrays, [weight.astype(arrays[0].dtype)])
    return [y, *found]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_plain_forms_are_the_formula_in_float32(dtype, backend):
    arrays = sample((5, 7), dtype)
    h, from_x, from_h, b, bhn = (
        np.array(a.astype(mx.float32), np.float64) for a in arrays
    )
    (rx, zx, nx), (rh, zh, nh) = (np.split(a, 3, axis=1) for a in (from_x, from_h))
    r, z = sigmoid(rx + rh + b[:7]), sigmoid(zx + zh + b[7:14])
    n = np.tanh(nx + b[14:] + r * (nh + bhn))
    expected = mx.array((n + z * (h - n)).astype(np.float32)).astype(dtype)
    tolerance = 1e-6 if dtype == mx.float32 else TOLERANCE[dtype]
    assert_close(gru_blend(*arrays, backend=backend), expected, tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_match_reference_in_value_and_every_gradient(gpu_backend, shape, dtype):
    arrays = sample(shape, dtype)
    expected = value_and_gradients(arrays, "reference")
    for ours, theirs in zip(
        value_and_gradients(arrays, gpu_backend), expected, strict=True
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (70, 8)], ids=str)
def test_native_form_matches_reference_in_value_and_every_gradient(shape, dtype):
    arrays = sample(shape, dtype)
    expected = value_and_gradients(arrays, "reference")
    tolerance = 3e-6 if dtype == mx.float32 else TOLERANCE[dtype]
    for ours, theirs in zip(value_and_gradients(arrays, "cpu"), expected, strict=True):
        assert_close(ours, theirs, tolerance)


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a CPU's choice")
def test_auto_on_a_cpu_is_the_native_form():
    arrays = sample((33, 33))
    assert_same_bits(gru_blend(*arrays), gru_blend(*arrays, backend="cpu"))
    assert not mx.array_equal(
        gru_blend(*arrays), gru_blend(*arrays, backend="reference")
    )


@pytest.mark.parametrize("dim", [1, 8, 65])
def test_gate_products_are_the_products(dim):
    x, weights = mx.random.normal((4, dim)), mx.random.normal((9, dim))
    found = gate_products(x, weights)
    expected = np.array(x, np.float64) @ np.array(weights, np.float64).T
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)], ids=str)
def test_product_of_rows_has_the_gradients_of_the_product(shape):
    x, weights = mx.random.normal(shape), mx.random.normal((4, 5))
    weight = mx.random.normal((*shape[:-1], 4))
    ours = mx.vjp(product_of_rows, [x, weights], [weight])
    plain = mx.vjp(lambda x, w: x @ w.T, [x, weights], [weight])
    for a, b in zip(ours[0] + ours[1], plain[0] + plain[1], strict=True):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dim", "padded"), [(1, 8), (8, 8), (65, 72), (0, 0)])
def test_even_columns_are_zeros_up_to_a_multiple_of_eight(dim, padded):
    x = mx.random.normal((2, 3, dim))
    found = even_columns(x)
    assert found.shape == (2, 3, padded)
    assert mx.array_equal(found[..., :dim], x)
    assert not mx.any(found[..., dim:])


def test_kernels_take_strided_and_offset_views(gpu_backend):
    arrays = sample((9, 16))
    rows = [a[1:] if a.ndim == 2 else a for a in arrays]
    halves = [a[::2] if a.ndim == 2 else a for a in arrays]
    for views in (rows, halves):
        expected = value_and_gradients(views, "reference")
        for ours, theirs in zip(
            value_and_gradients(views, gpu_backend), expected, strict=True
        ):
            assert_close(ours, theirs)


def test_float32_biases_stay_float32_beside_half_sums(gpu_backend):
    arrays = sample((3, 8), mx.bfloat16)
    arrays[-2:] = [a.astype(mx.float32) for a in arrays[-2:]]
    for backend in ("reference", "cpu", gpu_backend):
        found = value_and_gradients(arrays, backend)
        assert [a.dtype for a in found] == [mx.bfloat16] * 4 + [mx.float32] * 2


@pytest.mark.parametrize("size", [1e3, 1e30], ids=["1e3", "1e30"])
def test_huge_sums_saturate(gpu_backend, size):
    big, h = mx.full((1, 4), size), mx.full((1, 4), 0.25)
    biases = mx.zeros((12,)), mx.zeros((4,))

    def blend(z, n):
        from_x = mx.concatenate([big, z, n], axis=1)
        sums = from_x, mx.zeros_like(from_x)
        return gru_blend(h, *sums, *biases, backend=gpu_backend)

    assert mx.allclose(blend(-big, big), mx.ones((1, 4)))
    assert mx.allclose(blend(-big, -big), -mx.ones((1, 4)))
    assert mx.allclose(blend(big, big), h)


def test_equal_input_gives_equal_bits(gpu_backend):
    arrays = sample((70, 33))
    runs = [value_and_gradients(arrays, gpu_backend) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        assert_same_bits(one, two)


def test_checkpoint_keeps_the_kernel_gradient(gpu_backend):
    arrays = sample((5, 6))

    def loss(backend, *a):
        return gru_blend(*a, backend=backend).sum()

    every = tuple(range(5))
    saved = mx.grad(mx.checkpoint(partial(loss, gpu_backend)), argnums=every)
    plain = mx.grad(partial(loss, "reference"), argnums=every)
    for ours, theirs in zip(saved(*arrays), plain(*arrays), strict=True):
        assert_close(ours, theirs)


def test_second_gradient_matches_reference(gpu_backend):
    h, *rest = sample((3, 5))

    def curvature(backend):
        def loss(h):
            return (gru_blend(h, *rest, backend=backend) ** 3).sum()

        return mx.grad(lambda h: (mx.grad(loss)(h) ** 2).sum())(h)

    assert_close(curvature(gpu_backend), curvature("reference"))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_empty_axes_need_no_kernel(gpu_backend, shape):
    rows, width = shape
    gates = [mx.zeros((rows, 3 * width))] * 2
    arrays = [mx.zeros(shape), *gates, mx.zeros((3 * width,)), mx.zeros((width,))]
    assert gru_blend(*arrays, backend=gpu_backend).shape == shape


def test_wrong_arguments_are_named():
    h, from_x, from_h, b, bhn = sample((2, 3))
    with pytest.raises(ValueError, match=r"h must be \[N, H\], got \[3\]"):
        gru_blend(h[0], from_x, from_h, b, bhn)
    with pytest.raises(ValueError, match=r"from_x must be \[2, 9\], got \[2, 3\]"):
        gru_blend(h, h, from_h, b, bhn)
    with pytest.raises(ValueError, match=r"from_h must be \[2, 9\], got \[2, 3\]"):
        gru_blend(h, from_x, h, b, bhn)
    with pytest.raises(ValueError, match=r"b must be \[9\], got \[3\]"):
        gru_blend(h, from_x, from_h, bhn, bhn)
    with pytest.raises(TypeError, match="from_x must be .*float32, got .*float16"):
        gru_blend(h, from_x.astype(mx.float16), from_h, b, bhn)
    with pytest.raises(TypeError, match="h must be a float array"):
        gru_blend(h.astype(mx.int32), from_x, from_h, b, bhn)

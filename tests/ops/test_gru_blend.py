"""GRU blend: the plain form against its formula, the kernels against the plain form."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import gru_blend
from energyflow_mlx.ops.gru_blend import gru_blend_reference
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
    """Hidden state and the eight sums, biases included."""
    rows, width = shape
    keys = mx.random.split(mx.random.key(rows * 1000 + width), 9)
    shapes = [shape] * 7 + [(3 * width,), (width,)]
    return [
        (0.7 * mx.random.normal(s, key=k)).astype(dtype)
        for s, k in zip(shapes, keys, strict=True)
    ]


def value_and_gradients(arrays, backend):
    weight = mx.random.normal(arrays[0].shape, key=mx.random.key(1))
    weight = weight.astype(arrays[0].dtype)
    (y,), found = mx.vjp(lambda *a: gru_blend(*a, backend=backend), arrays, [weight])
    return [y, *found]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_reference_is_the_formula_in_float32(dtype):
    arrays = sample((5, 7), dtype)
    h, rx, zx, nx, rh, zh, nh, b, bhn = (
        np.array(a.astype(mx.float32), np.float64) for a in arrays
    )
    r, z = sigmoid(rx + rh + b[:7]), sigmoid(zx + zh + b[7:14])
    n = np.tanh(nx + b[14:] + r * (nh + bhn))
    expected = mx.array((n + z * (h - n)).astype(np.float32)).astype(dtype)
    tolerance = 1e-6 if dtype == mx.float32 else TOLERANCE[dtype]
    assert_close(gru_blend(*arrays), expected, tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_match_reference_in_value_and_every_gradient(gpu_backend, shape, dtype):
    arrays = sample(shape, dtype)
    expected = value_and_gradients(arrays, "reference")
    for ours, theirs in zip(
        value_and_gradients(arrays, gpu_backend), expected, strict=True
    ):
        assert_close(ours, theirs)


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
    for backend in ("reference", gpu_backend):
        found = value_and_gradients(arrays, backend)
        assert [a.dtype for a in found] == [mx.bfloat16] * 8 + [mx.float32] * 2


@pytest.mark.parametrize("size", [1e3, 1e30], ids=["1e3", "1e30"])
def test_huge_sums_saturate(gpu_backend, size):
    big, h, zero = mx.full((1, 4), size), mx.full((1, 4), 0.25), mx.zeros((1, 4))
    biases = mx.zeros((12,)), mx.zeros((4,))

    def blend(z, n):
        return gru_blend(h, big, z, n, zero, zero, zero, *biases, backend=gpu_backend)

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

    def loss(*a):
        return gru_blend(*a, backend=gpu_backend).sum()

    found = mx.grad(mx.checkpoint(loss), argnums=tuple(range(9)))(*arrays)
    expected = mx.grad(lambda *a: gru_blend_reference(*a).sum(), tuple(range(9)))
    for ours, theirs in zip(found, expected(*arrays), strict=True):
        assert_close(ours, theirs)


def test_second_gradient_matches_reference(gpu_backend):
    h, *sums = sample((3, 5))

    def curvature(backend):
        def loss(h):
            return (gru_blend(h, *sums, backend=backend) ** 3).sum()

        return mx.grad(lambda h: (mx.grad(loss)(h) ** 2).sum())(h)

    assert_close(curvature(gpu_backend), curvature("reference"))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_empty_axes_need_no_kernel(gpu_backend, shape):
    arrays = [mx.zeros(shape)] * 7 + [mx.zeros((3 * shape[1],)), mx.zeros((shape[1],))]
    assert gru_blend(*arrays, backend=gpu_backend).shape == shape


def test_wrong_arguments_are_named():
    h, *sums = sample((2, 3))
    with pytest.raises(ValueError, match=r"\[N, H\] with 8 sums, got \[2, 3\] with 7"):
        gru_blend(h, *sums[:-1])
    with pytest.raises(ValueError, match=r"b must be \[9\], got \[3\]"):
        gru_blend(h, *sums[:-2], sums[-1], sums[-1])
    with pytest.raises(TypeError, match="n_x must be .*float32, got .*float16"):
        gru_blend(h, *sums[:2], sums[2].astype(mx.float16), *sums[3:])
    with pytest.raises(TypeError, match="h must be a float array"):
        gru_blend(h.astype(mx.int32), *sums)

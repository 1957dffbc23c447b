"""Masked mean: the reference against its formula, the kernels against the reference."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import masked_mean
from energyflow_mlx.ops.masked_mean import masked_mean_reference
from tests.ops.comparison import (
    DTYPES,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

# Off the SIMD width, off the vector width, one token, fewer tokens than simdgroups,
# several tiles of features, several blocks of tokens.
SHAPES = [(2, 9, 33), (1, 1, 1), (3, 5, 31), (1, 3, 300), (2, 70, 8), (2, 17, 160)]


def sample(shape, dtype=mx.float32):
    """Features and a mask whose first row is all padding when there are several."""
    rng = np.random.default_rng(sum(shape))
    batch, length, _ = shape
    mask = (rng.random((batch, length)) > 0.4).astype(np.float32)
    mask[-1, 0] = 1
    if batch > 1:
        mask[0] = 0
    return mx.array(rng.standard_normal(shape)).astype(dtype), mx.array(mask)


def gradient(function, x, mask):
    weight = mx.random.normal((x.shape[0], x.shape[2]), key=mx.random.key(1))

    def loss(x):
        return (function(x, mask).astype(mx.float32) * weight).sum()

    return mx.grad(loss)(x)


def test_reference_is_the_mean_of_the_real_tokens():
    x, mask = sample((3, 7, 5))
    expected = np.zeros((3, 5), np.float32)
    for b in range(3):
        rows = np.array(x)[b][np.array(mask)[b] == 1]
        expected[b] = rows.mean(axis=0) if len(rows) else 0
    np.testing.assert_allclose(masked_mean(x, mask), expected, rtol=1e-5, atol=1e-6)


def test_row_without_real_tokens_is_zero_and_finite():
    x = mx.ones((2, 4, 3))
    mask = mx.zeros((2, 4))
    assert masked_mean(x, mask).tolist() == [[0.0] * 3] * 2
    assert gradient(masked_mean, x, mask).tolist() == [[[0.0] * 3] * 4] * 2


def test_reference_gradient_matches_finite_differences():
    x, mask = sample((2, 6, 4))
    weight = mx.random.normal((2, 4))
    direction = mx.random.normal(x.shape)

    def loss(x):
        return (masked_mean(x, mask) ** 2 * weight).sum()

    slope = float((mx.grad(loss)(x) * direction).sum())
    assert slope == pytest.approx(finite_difference(loss, x, direction), rel=1e-3)


@pytest.mark.parametrize("mask_dtype", [mx.bool_, mx.int32, mx.float16])
def test_any_mask_dtype_gives_the_same_result(mask_dtype):
    x, mask = sample((2, 9, 5))
    assert_same_bits(masked_mean(x, mask.astype(mask_dtype)), masked_mean(x, mask))


def test_padding_content_never_reaches_the_result(gpu_backend):
    x, mask = sample((2, 9, 33))
    spoilt = mx.where(mask[..., None] == 0, mx.array(float("nan")), x)
    for backend in ("reference", gpu_backend):
        clean = masked_mean(x, mask, backend=backend)
        assert_same_bits(masked_mean(spoilt, mask, backend=backend), clean)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_match_reference(gpu_backend, shape, dtype):
    x, mask = sample(shape, dtype)

    def on_kernel(x, mask):
        return masked_mean(x, mask, backend=gpu_backend)

    assert_close(on_kernel(x, mask), masked_mean_reference(x, mask))
    expected = gradient(masked_mean_reference, x, mask)
    assert_close(gradient(on_kernel, x, mask), expected)


def test_kernels_take_strided_and_offset_views(gpu_backend):
    x, mask = sample((4, 12, 16))
    for view, rows in ((x[::2], mask[::2]), (x[1:], mask[1:]), (x[..., 3:], mask)):
        assert_close(
            masked_mean(view, rows, backend=gpu_backend),
            masked_mean_reference(view, rows),
        )


def test_kernels_weigh_tokens_by_the_mask(gpu_backend):
    x, _ = sample((2, 9, 5))
    weight = mx.random.uniform(shape=(2, 9))
    assert_close(
        masked_mean(x, weight, backend=gpu_backend), masked_mean_reference(x, weight)
    )


def test_second_gradient_matches_reference(gpu_backend):
    x, mask = sample((2, 5, 6))

    def curvature(backend):
        def loss(x):
            return (masked_mean(x, mask, backend=backend) ** 3).sum()

        return mx.grad(lambda x: (mx.grad(loss)(x) ** 2).sum())(x)

    assert_close(curvature(gpu_backend), curvature("reference"))


def test_checkpoint_keeps_the_kernel_gradient(gpu_backend):
    x, mask = sample((2, 9, 5))

    def on_kernel(x, mask):
        return masked_mean(x, mask, backend=gpu_backend)

    expected = gradient(masked_mean_reference, x, mask)
    assert_close(gradient(mx.checkpoint(on_kernel), x, mask), expected)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_empty_axes_need_no_kernel(gpu_backend, shape):
    x, mask = mx.zeros(shape), mx.zeros(shape[:2])
    pooled = masked_mean(x, mask, backend=gpu_backend)
    assert pooled.shape == (shape[0], shape[2])
    assert not pooled.any()


def test_wrong_arguments_are_named():
    x = mx.zeros((2, 3, 4))
    with pytest.raises(
        ValueError, match=r"mask must be \[B, L\] = \[2, 3\], got \[2\]"
    ):
        masked_mean(x, mx.zeros((2,)))
    with pytest.raises(ValueError, match=r"x must be \[B, L, D\], got \[2, 3\]"):
        masked_mean(x[..., 0], mx.zeros((2, 3)))
    with pytest.raises(TypeError, match="x must be a float array, got .*int32"):
        masked_mean(x.astype(mx.int32), mx.zeros((2, 3)))

"""Linear cross entropy: the reference by hand, every form against it."""

import sys

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import linear_cross_entropy
from energyflow_mlx.ops.linear_cross_entropy import linear_cross_entropy_reference
from tests.ops.comparison import (
    DTYPES,
    TOLERANCE,
    as_numpy,
    assert_close,
    assert_same_bits,
    name_of,
)

# Rows N, features D, vocabulary V: one of each; odd sizes; whole packs; more columns
# than a group has threads.
SIZES = [(1, 1, 2), (5, 3, 7), (6, 8, 64), (3, 4, 2500), (1100, 5, 13)]
MODULE = sys.modules[linear_cross_entropy.__module__]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def sample(size, dtype=mx.float32):
    """h, weight, bias, target, count: every third row does not count."""
    rows, width, vocabulary = size
    rng = np.random.default_rng(sum(size))

    def normal(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32))

    count = np.where(np.arange(rows) % 3 == 1, 0.0, 1.0 + np.arange(rows) % 2)
    return (
        normal(rows, width).astype(dtype),
        normal(vocabulary, width),
        normal(vocabulary),
        mx.array(rng.integers(0, vocabulary, rows).astype(np.int32)),
        mx.array(count.astype(np.float32)),
    )


def value_and_gradients(arguments, backend, **options):
    def loss(h, weight, bias):
        rest = arguments[3:]
        return 3 * linear_cross_entropy(
            h, weight, bias, *rest, backend=backend, **options
        )

    value, gradients = mx.value_and_grad(loss, argnums=(0, 1, 2))(*arguments[:3])
    return [value, *gradients]


def assert_form_is_right(arguments, backend, **options):
    dtype = arguments[0].dtype
    found = value_and_gradients(arguments, backend, **options)
    expected = value_and_gradients(arguments, "reference", **options)
    # Slopes are rounded to the format of h before the products.
    tolerance = {mx.float32: 2e-5}.get(dtype, 2 * TOLERANCE[dtype])
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, tolerance)


def test_reference_is_the_formula_by_hand():
    h, weight = np.array([[1.0, 2], [0, 1]]), np.array([[1.0, 0], [0, 1], [1, 1]])
    bias, lowered = np.array([0.5, 0, -0.5]), np.array([0.0, 1, 0])
    x = h @ weight.T + bias - lowered
    lse = np.log(np.exp(x).sum(axis=1))
    each = lse - 0.9 * x[[0, 1], [2, 0]] - 0.1 * x.mean(axis=1)
    arrays = [mx.array(a, mx.float32) for a in (h, weight, bias)]
    found = linear_cross_entropy_reference(
        *arrays,
        mx.array([2, 0]),
        mx.array([1.0, 2.0]),
        mx.array(lowered, mx.float32),
        0.1,
    )
    assert found.item() == pytest.approx(each @ [1, 2], rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@every_size
def test_form_for_the_cpu_matches_reference(size, dtype, dirty_memory):
    arguments = sample(size, dtype)
    assert_form_is_right(arguments, "cpu")
    lowered = mx.random.normal((size[2],))
    assert_form_is_right(arguments, "cpu", lowered=lowered, label_smoothing=0.2)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@every_size
def test_kernels_match_reference(gpu_backend, size, dtype):
    arguments = sample(size, dtype)
    assert_form_is_right(arguments, gpu_backend)
    lowered = mx.random.normal((size[2],))
    assert_form_is_right(arguments, gpu_backend, lowered=lowered, label_smoothing=0.2)


def test_kernels_chunks_of_rows_add_up(gpu_backend, monkeypatch):
    arguments = sample((11, 4, 33))
    monkeypatch.setattr(MODULE, "_CHUNK_BYTES", 64 * 4 * 4)
    assert_form_is_right(arguments, gpu_backend)


@pytest.mark.parametrize("form", ["cpu", "reference"])
def test_rows_that_do_not_count_may_hold_anything(form):
    check_uncounted(form)


def test_kernels_rows_that_do_not_count_may_hold_anything(gpu_backend):
    check_uncounted(gpu_backend)


def check_uncounted(form):
    h, *rest = sample((5, 3, 7))
    clean = value_and_gradients((h, *rest), form)
    h = mx.where(mx.arange(5)[:, None] % 3 == 1, float("nan"), h)
    found = value_and_gradients((h, *rest), form)
    assert_same_bits(found[0], clean[0])
    assert not as_numpy(found[1])[1::3].any()
    for a, b in zip(found, clean, strict=True):
        assert_close(a, b, 1e-6)


@pytest.mark.parametrize("form", ["cpu", "reference"])
def test_huge_logits_stay_finite(form):
    check_huge(form)


def test_kernels_huge_logits_stay_finite(gpu_backend):
    check_huge(gpu_backend)


def check_huge(form):
    arguments = (
        *(mx.array([[1e4, 0.0]]), mx.array([[1.0, 0], [-1, 0], [0.99, 0]])),
        *(mx.zeros(3), mx.array([1]), mx.ones(1)),
    )
    value, gh, gweight, gbias = value_and_gradients(arguments, form)
    assert value.item() == pytest.approx(6e4)
    for gradient in (gh, gweight, gbias):
        assert np.isfinite(as_numpy(gradient)).all()


def test_equal_input_gives_equal_bits():
    check_bits("cpu", mx.float32)


def test_kernels_equal_input_gives_equal_bits(gpu_backend):
    check_bits(gpu_backend, mx.bfloat16)


def check_bits(form, dtype):
    arguments = sample((600, 8, 2300), dtype)
    runs = [value_and_gradients(arguments, form) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


def test_value_alone_is_the_same_number_and_has_no_gradients():
    arguments = sample((6, 8, 64))
    value = linear_cross_entropy(*arguments, backend="cpu", value_only=True)
    whole = linear_cross_entropy(*arguments, backend="cpu")
    assert_same_bits(value, whole)

    def loss(h):
        return linear_cross_entropy(h, *arguments[1:], backend="cpu", value_only=True)

    with pytest.raises(ValueError, match="Not implemented"):
        mx.grad(loss)(arguments[0])


def test_row_without_a_number_shows_in_the_sum():
    h, *rest = sample((5, 3, 7))
    h = mx.where(mx.arange(5)[:, None] == 2, float("nan"), h)
    for form in ("cpu", "reference"):
        assert np.isnan(value_and_gradients((h, *rest), form)[0].item())


def test_no_row_counts():
    h, weight, bias, target, _ = sample((5, 3, 7))
    arguments = (h, weight, bias, target, mx.zeros(5))
    for array in value_and_gradients(arguments, "cpu"):
        assert not as_numpy(array).any()


def test_columns_of_chance_zero_get_none():
    h, weight, bias, target, count = sample((5, 3, 7))
    lowered = mx.where(mx.arange(7) == 6, float("inf"), 0.0)
    arguments = (h, weight, bias, mx.minimum(target, 5), count)
    found = value_and_gradients(arguments, "cpu", lowered=lowered)
    assert all(np.isfinite(as_numpy(a)).all() for a in found)
    assert np.abs(as_numpy(found[2])[6]).max() < 1e-30


def test_wrong_arguments_are_named():
    h, weight, bias, target, count = sample((5, 3, 7))
    for changed, message in (
        ((h[:, 1:], weight, bias, target, count), r"must be \[N, D\] and \[V, D\]"),
        ((h, weight, bias[1:], target, count), r"bias must be \[V\] = \[7\]"),
        ((h, weight, bias, target[1:], count), r"must be \[N\] = \[5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(*changed)
    with pytest.raises(TypeError, match="target must be integers"):
        linear_cross_entropy(h, weight, bias, count, count)
    with pytest.raises(TypeError, match="h must be a float array"):
        linear_cross_entropy(h.astype(mx.int32), weight, bias, target, count)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        linear_cross_entropy(h, weight, bias, target, count, label_smoothing=1.0)

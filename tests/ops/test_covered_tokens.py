"""Tokens with coverage: the native form against the plain one, value and gradients."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import covered_tokens
from energyflow_mlx.ops._backend import available
from energyflow_mlx.ops.covered_tokens import covered_tokens_reference
from tests.ops.comparison import (
    TOLERANCE,
    as_numpy,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

pytestmark = pytest.mark.skipif(not available("cpu"), reason="no compiler")
native = partial(covered_tokens, backend="cpu")


def sample(lengths, longest, dim, holes=(), seed=0):
    """Tokens, condition, weight, bias; the mask; a cotangent."""
    draw = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return mx.array((scale * draw.standard_normal(shape)).astype(np.float32))

    mask = np.arange(longest)[None] < np.array(lengths)[:, None]
    for place in holes:
        mask[place] = False
    shape = (len(lengths), longest, dim)
    arrays = [normal(*shape), normal(shape[0], dim)]
    arrays += [normal(dim, dim, scale=dim**-0.5), normal(dim)]
    return arrays, mx.array(mask.astype(np.float32)), normal(*shape)


def results(function, arrays, mask, gy):
    def call(tokens, *rest):
        return function(tokens, mask, *rest)

    (y,), gradients = mx.vjp(call, arrays, [gy])
    return [y, *gradients]


@pytest.mark.parametrize(
    "shape",
    [
        ((7, 3, 5), 9, 19),
        ((1,), 1, 1),
        ((5, 0, 2, 0), 6, 16),
        ((0, 0), 4, 5),
        ((300, 7), 310, 200),
        ((9, 4) * 60, 9, 33),
    ],
    ids=lambda s: f"B{len(s[0])} L{s[1]} D{s[2]}",
)
def test_native_equals_reference(shape):
    case = sample(*shape)
    found, expected = (results(f, *case) for f in (native, covered_tokens_reference))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_masked_tokens_inside_a_sentence_are_not_counted():
    case = sample((7, 3, 5), 9, 19, holes=[(0, 0), (0, 3), (2, 1)])
    found, expected = (results(f, *case) for f in (native, covered_tokens_reference))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_gradients_are_finite_differences():
    arrays, mask, gy = sample((4, 2), 5, 6)
    gradients = results(native, arrays, mask, gy)[1:]
    for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        direction = mx.random.normal(array.shape, key=mx.random.key(i))

        def along(moved, i=i):
            tokens, *rest = [*arrays[:i], moved, *arrays[i + 1 :]]
            return (native(tokens, mask, *rest) * gy).sum().item()

        assert (gradient * direction).sum().item() == pytest.approx(
            finite_difference(along, array, direction), rel=1e-2, abs=1e-2
        )


def test_a_nan_reaches_the_result_from_a_real_token_and_not_from_padding():
    arrays, mask, gy = sample((4, 2), 5, 6)
    for place, reaches in (((1, 1), True), ((1, 2), False)):
        tokens = mx.array(arrays[0])
        tokens[place] = float("nan")
        y = results(native, [tokens, *arrays[1:]], mask, gy)[0]
        assert bool(mx.isnan(y).any()) == reaches


@pytest.mark.parametrize("wrap", [mx.compile, mx.checkpoint], ids=["compile", "ckpt"])
def test_works_inside_transforms(wrap):
    arrays, mask, gy = sample((4, 2), 5, 6)

    def loss(tokens, *rest):
        return (native(tokens, mask, *rest) * gy).sum()

    found = mx.grad(wrap(loss), argnums=(0, 1, 2, 3))(*arrays)
    for a, b in zip(found, results(native, arrays, mask, gy)[1:], strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=name_of)
def test_half_precision_computes_in_float32(dtype):
    arrays, mask, _ = sample((4, 2), 5, 6)
    half = [a.astype(dtype) for a in arrays]
    wide = [a.astype(mx.float32) for a in half]
    y = native(half[0], mask, *half[1:])
    expected = as_numpy(covered_tokens_reference(wide[0], mask, *wide[1:]))
    assert y.dtype == dtype
    assert np.abs(as_numpy(y) - expected).max() <= TOLERANCE[dtype] * expected.max()

"""Approximation for the CPU against float64."""

import math

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops.fast_math import fast_exp, horner

POINTS = np.linspace(-12, 12, 24001).astype(np.float32)
WIDE = POINTS.astype(np.float64)


def test_fast_exp_is_accurate_saturates_and_keeps_nan():
    x = np.linspace(-10, 10, 20001).astype(np.float32)
    ratio = np.array(fast_exp(mx.array(x))) / np.exp(x.astype(np.float64))
    assert np.abs(ratio - 1).max() < 1e-6
    far = np.array(fast_exp(mx.array([-1e9, -math.inf, 1e9, 0.0, math.nan])))
    assert 0 <= far[0] < 2e-38 and 0 <= far[1] < 2e-38
    assert far[2] > 1e38 and far[3] == pytest.approx(1, abs=1e-6) and np.isnan(far[4])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_horner_is_the_polynomial(count):
    coefficients = tuple(0.5 - i for i in range(count))
    found = np.array(horner(mx.array(POINTS[::100]), coefficients))
    expected = np.polynomial.polynomial.polyval(WIDE[::100], coefficients)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

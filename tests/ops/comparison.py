"""Tolerances of the operations and how closeness to them is measured."""

import mlx.core as mx
import numpy as np

from energyflow_mlx.ops.cases import TOLERANCE
from energyflow_mlx.runtime.kernel_check import relative_errors

DTYPES = tuple(TOLERANCE)


def name_of(dtype):
    """Short name of a dtype for test ids."""
    return str(dtype).removeprefix("mlx.core.")


def as_numpy(array):
    """Values as float32, whatever the dtype."""
    return np.array(array.astype(mx.float32))


def assert_close(actual, expected, tolerance=None):
    """Shape, dtype and values agree, relative to the largest expected magnitude."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    limit = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    assert np.isfinite(as_numpy(actual)).all()
    error = relative_errors([actual], [expected])
    assert error <= limit, f"relative error {error:.2e} above {limit:.1e}"


def assert_same_bits(actual, expected):
    """Equal down to the bits."""
    assert actual.dtype == expected.dtype
    assert as_numpy(actual).tobytes() == as_numpy(expected).tobytes()


def finite_difference(function, point, direction, step=1e-2):
    """Central difference of a scalar function along a direction, in float64."""
    ahead, behind = (
        function(point + step * direction),
        function(point - step * direction),
    )
    return (float(ahead) - float(behind)) / (2 * step)

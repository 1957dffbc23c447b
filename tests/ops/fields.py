"""Flows in the cube for the tests of the field operations, and their gradients."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import field_read, field_write
from energyflow_mlx.ops.field_read import field_read_reference
from energyflow_mlx.ops.field_write import field_write_reference
from tests.ops.comparison import assert_close

OPS = {
    "write": (field_write, field_write_reference),
    "read": (field_read, field_read_reference),
}
every_op = pytest.mark.parametrize("op", OPS)


def flows(batch, count, reach=1.2):
    """Positions in and a little outside the cube; a third of the flows is dead."""
    position = mx.random.uniform(-reach, reach, (batch, count, 3))
    return position, mx.random.bernoulli(2 / 3, (batch, count))


def arguments(op, position, alive, cells, channels=2, dtype=mx.float32):
    """Positional arguments of an operation on random values."""
    batch = position.shape[0]
    if op == "read":
        field = mx.random.normal((batch, cells, cells, cells, channels))
        return field.astype(dtype), position, alive
    value = mx.random.normal((*alive.shape, channels)).astype(dtype)
    return position, value, alive, cells


def gradients(function, arguments, **options):
    """Gradients of a random linear function of the result, to both float arrays."""
    shape = function(*arguments, **options).shape
    weighting = mx.random.normal(shape, key=mx.random.key(5))

    def loss(first, second):
        result = function(first, second, *arguments[2:], **options)
        return (result.astype(mx.float32) * weighting).sum()

    return mx.grad(loss, argnums=(0, 1))(*arguments[:2])


def assert_kernel_matches(op, backend, arguments, tolerance=None):
    """Value and both gradients of a kernel are the reference's."""
    function, reference = OPS[op]
    result = function(*arguments, backend=backend)
    assert_close(result, reference(*arguments), tolerance)
    actual = gradients(function, arguments, backend=backend)
    for a, b in zip(actual, gradients(reference, arguments), strict=True):
        assert_close(a, b, tolerance)


def trilinear(place, cells):
    """Corners and shares of one place in NumPy, from the formula alone."""
    at = (np.clip(np.asarray(place, np.float64), -1, 1) + 1) / 2 * (cells - 1)
    for corner in np.ndindex(cells, cells, cells):
        share = np.prod(np.maximum(0.0, 1.0 - np.abs(at - corner)))
        if share > 0:
            yield corner, share

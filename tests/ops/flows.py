"""Flows for the tests of the lattice operations, and gradients over a surface."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import lattice_readout, lattice_scatter
from energyflow_mlx.ops.lattice_readout import lattice_readout_reference
from energyflow_mlx.ops.lattice_scatter import lattice_scatter_reference
from tests.ops.comparison import assert_close

OPS = {
    "scatter": (lattice_scatter, lattice_scatter_reference),
    "readout": (lattice_readout, lattice_readout_reference),
}
MODES = ("nearest", "bilinear")
every_op = pytest.mark.parametrize("op", OPS)
every_mode = pytest.mark.parametrize("mode", MODES)


def flows(batch, count, dtype=mx.float32, reach=1.2, coordinates=3):
    """Flows in and a little outside the box, with an energy and a weight each."""
    position = mx.random.uniform(-reach, reach, (batch, count, coordinates))
    energy = mx.random.normal((batch, count)).astype(dtype)
    weight = mx.random.uniform(shape=(batch, count)).astype(dtype)
    return position, energy, weight


def nearest_cells(position, height, width):
    """Cell numbers in NumPy, as the readme of the reference system gives them."""
    u = np.clip(np.array(position)[..., :2], -1, 1).astype(np.float32)
    ix = np.rint((u[..., 0] + 1) / 2 * (width - 1)).astype(int)
    iy = np.rint((u[..., 1] + 1) / 2 * (height - 1)).astype(int)
    return iy * width + ix


def gradients(function, arrays, size, mode, **options):
    """Gradients of a random linear function of the surface."""
    weighting = mx.random.normal((arrays[1].shape[0], *size), key=mx.random.key(5))

    def loss(*arrays):
        surface = function(*arrays, size, mode, **options)
        return (surface.astype(mx.float32) * weighting).sum()

    return mx.grad(loss, argnums=(0, 1, 2))(*arrays)


def assert_kernel_matches(op, backend, arrays, size, mode, tolerance=None):
    """Value and every gradient of a kernel are the reference's."""
    function, reference = OPS[op]
    surface = function(*arrays, size, mode, backend=backend)
    assert_close(surface, reference(*arrays, size, mode), tolerance)
    actual = gradients(function, arrays, size, mode, backend=backend)
    expected = gradients(reference, arrays, size, mode)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)

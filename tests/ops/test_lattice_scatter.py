"""Lattice scatter: formula, and kernels against the reference."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import lattice_scatter
from energyflow_mlx.ops.lattice_scatter import lattice_scatter_reference
from tests.ops.comparison import DTYPES, assert_close, name_of
from tests.ops.flows import assert_kernel_matches, every_mode, flows, nearest_cells


def test_nearest_sums_the_flows_of_each_cell():
    position, energy, weight = flows(2, 60)
    expected = np.zeros((2, 4 * 5), np.float32)
    cell = nearest_cells(position, 4, 5)
    for b in range(2):
        np.add.at(expected[b], cell[b], np.array(energy * weight)[b])
    surface = lattice_scatter(position, energy, weight, (4, 5), "nearest")
    assert_close(surface, mx.array(expected.reshape(2, 4, 5)))


@every_mode
def test_scatter_keeps_the_total(mode):
    position, energy, weight = flows(3, 40)
    surface = lattice_scatter(position, energy, weight, (5, 7), mode)
    expected = (energy * weight).sum(axis=1)
    assert mx.allclose(surface.sum(axis=(1, 2)), expected, atol=1e-5)


@every_mode
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_kernels_match_reference(gpu_backend, mode, dtype):
    arrays = flows(2, 300, dtype)
    assert_kernel_matches("scatter", gpu_backend, arrays, (6, 7), mode)


def test_many_flows_are_summed_in_slices(kernel_host):
    arrays = flows(1, 2500)
    surface = lattice_scatter(*arrays, (4, 5), "nearest", backend="metal")
    assert kernel_host.launches[-1].grid == (2 * 256, 1, 1)
    expected = lattice_scatter_reference(*arrays, (4, 5), "nearest")
    assert_close(surface, expected, 3e-5)

"""Lattice readout: formula, relation to the scatter, kernels against the reference."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import lattice_readout, lattice_scatter
from tests.ops.comparison import DTYPES, assert_close, name_of
from tests.ops.flows import (
    MODES,
    assert_kernel_matches,
    every_mode,
    flows,
    gradients,
    nearest_cells,
)


def test_nearest_is_the_grouped_softmax_of_the_scores():
    position, energy, score = flows(2, 60)
    cell, e, q = nearest_cells(position, 4, 5), np.array(energy), np.array(score)
    expected = np.zeros((2, 4 * 5), np.float32)
    for b in range(2):
        for c in set(cell[b]):
            p = np.exp(q[b, cell[b] == c] - q[b, cell[b] == c].max())
            expected[b, c] = (p * e[b, cell[b] == c]).sum() / (p.sum() + 1e-12)
    surface = lattice_readout(position, energy, score, (4, 5), "nearest")
    assert_close(surface, mx.array(expected.reshape(2, 4, 5)))


@every_mode
@pytest.mark.parametrize("count", [12, 200], ids=["thin", "crowded"])
def test_readout_is_the_covered_quotient_of_two_scatters(mode, count):
    position, energy, score = flows(2, count)
    size, p, ones = (5, 7), mx.exp(score), mx.ones((2, count))
    weighted = lattice_scatter(position, energy, p, size, mode)
    total = lattice_scatter(position, ones, p, size, mode)
    mass = lattice_scatter(position, ones, ones, size, mode)
    cover = mx.where(mass < 1, mass * (2 - mass), 1.0)
    expected = mx.where(mass > 0, cover * weighted / mx.maximum(total, 1e-12), 0.0)
    assert_close(lattice_readout(position, energy, score, size, mode), expected)


def test_lone_flow_shows_its_energy_whatever_its_score():
    position = mx.array([[[0.0, 0.0]]])
    for score in (-50.0, 0.0, 50.0):
        for mode in MODES:
            surface = lattice_readout(
                position, mx.array([[2.5]]), mx.array([[score]]), (3, 3), mode
            )
            assert surface[0, 1, 1].item() == pytest.approx(2.5)
            assert float(mx.abs(surface).sum()) == pytest.approx(2.5)


@every_mode
def test_score_of_minus_infinity_drops_a_flow(mode):
    position, energy, score = flows(1, 8)
    alive = mx.array([[True, False] * 4])
    masked = mx.where(alive, score, -mx.inf)
    surface = lattice_readout(position, energy, masked, (4, 5), mode)
    kept = [a[:, ::2] for a in (position, energy, score)]
    assert_close(surface, lattice_readout(*kept, (4, 5), mode))
    for g in gradients(lattice_readout, (position, energy, masked), (4, 5), mode):
        assert mx.isfinite(g).all()
        assert not g[0, 1::2].any()


def test_readout_changes_continuously_as_a_flow_crosses_cells():
    energy, score = mx.array([[1.0, -2.0, 3.0]]), mx.array([[0.0, 1.5, 0.7]])
    previous = None
    for x in np.linspace(-1, 1, 401):
        position = mx.array([[[x, 0.1], [0.3, 0.0], [-0.4, 0.2]]])
        surface = np.array(lattice_readout(position, energy, score, (5, 5), "bilinear"))
        if previous is not None:
            assert np.abs(surface - previous).max() < 0.2
        previous = surface


def test_flow_on_a_cell_feels_the_empty_cell_beside_it():
    target = mx.zeros((1, 3, 3)).at[0, 1, 2].add(1.0)

    def loss(position):
        ones = mx.ones((1, 1))
        surface = lattice_readout(position, ones, ones, (3, 3), "bilinear")
        return (surface * target).sum()

    assert mx.grad(loss)(mx.array([[[0.0, 0.0]]]))[0, 0, 0].item() > 0.5


@every_mode
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_kernels_match_reference(gpu_backend, mode, dtype):
    arrays = flows(2, 300, dtype)
    assert_kernel_matches("readout", gpu_backend, arrays, (6, 7), mode)

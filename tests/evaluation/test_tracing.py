"""Traces of a lattice's flows agree with what the lattice itself reports."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.evaluation.tracing import record_flows, worth_of_regions
from energyflow_mlx.lattice import EnergyLattice
from tests.lattice.conftest import make_config, wake
from tests.plots.records import count_on_face

SPAWNING = {"spawn": {"per_cell": 0.3, "threshold": 0.05}}
# Without the drift most flows stay inside and must be projected.
SETTINGS = {
    "spawning": SPAWNING,
    "unused slots": {"spawn": {"per_cell": 0.15, "threshold": 9.0}},
    "no drift": {"motion": {"z_drift": False}},
    "one face": {"cube": {"output_planes": "far"}, **SPAWNING},
    "medium": {"field": {"cells": 4}, **SPAWNING},
}


@pytest.fixture(params=SETTINGS)
def traced(request):
    config = make_config(**SETTINGS[request.param])
    lattice = EnergyLattice(config, 6)
    wake(lattice.flow)
    lattice.eval()
    paths = lattice.trace(mx.random.normal((1, 6)))
    worth = worth_of_regions(lattice, paths)
    return config, paths, record_flows("a", "b", paths, worth, config)


def test_only_flows_that_exist_are_kept(traced):
    config, paths, record = traced
    created = int(record.statistics["created"])
    assert record.position.shape == (config.total_steps + 1, created, 3)
    assert record.alive.any(axis=0).all()
    if config.spawn.threshold < 1 and config.spare_slots:
        assert created > config.surface_size
        assert (record.born[config.surface_size :] > 0).all()


def test_ages_arrivals_and_paths_agree_with_the_statistics(traced):
    config, paths, record = traced
    said = record.statistics
    by_itself = record.arrived <= config.total_steps
    assert np.array_equal(by_itself, record.reached != 0)
    assert np.mean(by_itself) == pytest.approx(said["reached"])
    assert np.mean(record.age) == pytest.approx(said["steps"])
    end = np.minimum(record.arrived, config.total_steps)
    assert np.array_equal(record.age, end - record.born)
    assert np.mean(record.sideways) == pytest.approx(said["sideways"], rel=1e-5)


def test_an_arrival_is_counted_on_its_cell(traced):
    config, paths, record = traced
    size = (config.cube.width, config.cube.height)
    for face, found in ((-1.0, record.arrivals_near), (1.0, record.arrivals_far)):
        assert np.array_equal(found, count_on_face(record.landed, face, *size))


def test_every_flow_lands_on_one_cell_of_one_face(traced):
    config, paths, record = traced
    near, far = record.arrivals_near, record.arrivals_far
    assert near.shape == far.shape == (config.cube.height, config.cube.width)
    assert near.sum() + far.sum() == len(record.age)
    assert near.sum() == np.sum(record.landed[:, 2] == -1)


def test_the_medium_holds_the_energy_of_those_who_travel(traced):
    config, _, record = traced
    if not config.field.cells:
        assert record.field is None
        return
    assert record.field.shape == (config.total_steps + 1, 4, 4, 4)
    travelling = np.where(record.alive, record.energy, 0.0).sum(axis=1)
    np.testing.assert_allclose(record.field.sum(axis=(1, 2, 3)), travelling, atol=1e-4)
    # They start on the plane in the middle, and none is at a face.
    start = np.abs(record.field[0]).sum(axis=(0, 1))
    assert start[1] > 0 and start[2] > 0 and start[0] == start[3] == 0


def test_a_flow_rests_where_it_arrived(traced):
    config, paths, record = traced
    for time in range(config.total_steps + 1):
        rests = record.arrived <= time
        assert np.array_equal(record.position[time, rests], record.landed[rests])


def test_a_trace_of_a_ready_surface_is_the_trace_of_its_vector(small_traces):
    by_vector, by_surface = small_traces
    for name in ("position", "energy", "alive"):
        assert mx.array_equal(getattr(by_vector, name), getattr(by_surface, name)), name
    assert mx.array_equal(by_vector.output.vector, by_surface.output.vector)


@pytest.fixture
def small_traces():
    lattice = EnergyLattice(make_config(), 6)
    wake(lattice.flow)
    lattice.eval()
    vector = mx.random.normal((2, 6))
    surface = lattice.mapper(vector).reshape(2, -1)
    return lattice.trace(vector), lattice.trace_surface(surface)


def test_a_child_has_the_place_and_the_energy_of_its_parent(traced):
    config, _, record = traced
    cells = config.surface_size
    assert (record.parent[:cells] == -1).all()
    for child in range(cells, len(record.parent)):
        parent, time = record.parent[child], record.born[child]
        assert record.born[parent] < time
        assert np.array_equal(
            record.position[time, child], record.position[time - 1, parent]
        )
        assert record.energy[time, child] == record.energy[time, parent]


def test_the_worth_of_a_region_is_what_the_cosine_loses_without_its_energies():
    config = make_config(cube={"width": 15, "height": 11})
    lattice = EnergyLattice(config, 6)
    wake(lattice.flow)
    lattice.eval()
    surface = np.array(mx.random.normal((1, 11, 15)))
    surface[:, 6:, 10:] = 0.0
    paths = lattice.trace_surface(mx.array(surface))
    worth = worth_of_regions(lattice, paths)
    whole = np.array(paths.output.vector)
    for rows, columns in ((slice(6), slice(5)), (slice(6, 11), slice(5, 10))):
        less = surface.copy()
        less[:, rows, columns] = 0.0
        vector = np.array(lattice.from_surface(mx.array(less)).vector)
        lost = 1.0 - cosine_rows(vector, whole)[0]
        np.testing.assert_allclose(worth[rows, columns], lost, atol=1e-5)
        assert lost > 1e-3
    np.testing.assert_allclose(worth[6:, 10:], 0.0, atol=1e-6)

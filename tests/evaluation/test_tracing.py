"""Traces of a lattice's flows agree with what the lattice itself reports."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.evaluation.flow_record import Cube
from energyflow_mlx.evaluation.tracing import record_flows
from energyflow_mlx.lattice import EnergyLattice, count_arrivals
from tests.lattice.conftest import SMALL, wake

SPAWNING = {"spawn_slots": 6, "spawn_threshold": 0.05}
# Without the drift most flows stay inside and must be projected.
SETTINGS = {
    "spawning": SPAWNING,
    "unused slots": {"spawn_slots": 3, "spawn_threshold": 9.0},
    "no drift": {"z_drift": False},
    "one face": {"output_planes": "far", **SPAWNING},
}


@pytest.fixture(params=SETTINGS)
def traced(request):
    config = LatticeConfig(**{**SMALL, **SETTINGS[request.param]})
    lattice = EnergyLattice(config, 6)
    wake(lattice.flow)
    lattice.eval()
    paths = lattice.trace(mx.random.normal((1, 6)))
    return config, paths, record_flows("a", "b", paths)


def test_only_flows_that_exist_are_kept(traced):
    config, paths, record = traced
    created = int(record.statistics["created"])
    assert record.position.shape == (config.total_steps + 1, created, 3)
    assert record.alive.any(axis=0).all()
    if config.spawn_threshold < 1 and config.spawn_slots:
        assert created > config.surface_size
        assert (record.born[config.surface_size :] > 0).all()


def test_ages_arrivals_and_ways_agree_with_the_statistics(traced):
    config, paths, record = traced
    said = record.statistics
    by_itself = record.arrived <= config.total_steps
    assert np.array_equal(by_itself, record.reached != 0)
    assert np.mean(by_itself) == pytest.approx(said["reached"])
    assert np.mean(record.age) == pytest.approx(said["steps"])
    end = np.minimum(record.arrived, config.total_steps)
    assert np.array_equal(record.age, end - record.born)
    assert np.mean(record.sideways) == pytest.approx(said["sideways"], rel=1e-5)


def test_arrivals_are_those_the_lattice_counts(traced):
    config, paths, record = traced
    is_dual = config.output_planes == "dual"
    cube = Cube(config.width, config.height, config.total_steps, 0.0, is_dual)
    for face in (-1.0, 1.0):
        counted = count_arrivals(config, paths.output.flows, face)
        assert np.array_equal(record.arrivals(cube, face), np.array(counted)[0])


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
    lattice = EnergyLattice(LatticeConfig(**SMALL), 6)
    wake(lattice.flow)
    lattice.eval()
    vector = mx.random.normal((2, 6))
    surface = lattice.mapper(vector).reshape(2, -1)
    return lattice.trace(vector), lattice.trace_surface(surface)

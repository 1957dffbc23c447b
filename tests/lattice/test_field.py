"""The medium of the cube: what is written is kept, read in place, and learned from."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyflow_mlx.lattice.dynamics import FlowStep, phase
from energyflow_mlx.lattice.field import write_grid
from energyflow_mlx.lattice.state import launch
from energyflow_mlx.ops import field_read
from tests.lattice.conftest import make_config


def flows(seed=0, batch=2, **groups):
    """Flows anywhere in the cube with energies of any size; a third has arrived."""
    config = make_config(**groups)
    size, keys = (batch, 4, 5), mx.random.split(mx.random.key(seed), 3)
    state = launch(config, 3 * mx.random.normal(size, key=keys[0]))
    place = mx.random.uniform(-1, 1, state.position.shape, key=keys[1])
    is_alive = mx.random.bernoulli(2 / 3, state.alive.shape, key=keys[2])
    return state._replace(position=place, alive=mx.logical_and(state.alive, is_alive))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_what_is_written_is_what_travelling_flows_carry(seed, cells):
    state = flows(seed)
    grid = write_grid(state, cells)
    assert grid.shape == (2, cells, cells, cells, 2)
    carried = mx.where(state.alive, state.energy, 0.0).sum(axis=1)
    written = grid.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(written[:, 0], carried, atol=1e-4)
    np.testing.assert_allclose(written[:, 1], state.alive.sum(axis=1), atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_no_flow_reads_more_than_the_fullest_cell_holds(seed, cells):
    state = flows(seed)
    grid = write_grid(state, cells)
    read = np.array(field_read(grid, state.position, state.alive))
    assert np.isfinite(read).all()
    assert (np.abs(read) <= np.abs(np.array(grid)).max() * (1 + 1e-5)).all()


def test_the_order_of_the_flows_does_not_change_the_field():
    state = flows()
    order = mx.array(np.random.default_rng(0).permutation(20))
    mixed = state._replace(
        position=state.position[:, order],
        energy=state.energy[:, order],
        alive=state.alive[:, order],
    )
    assert mx.allclose(write_grid(state, 4), write_grid(mixed, 4), atol=1e-5)


def test_a_linear_field_is_read_exactly_between_its_cells():
    at = mx.linspace(-1, 1, 4)
    grid = at[:, None, None] + 2 * at[:, None] - 3 * at  # x, y, z
    place = flows().position
    everyone = mx.ones(place.shape[:2], mx.bool_)
    found = field_read(mx.stack([grid[..., None]] * 2), place, everyone)[..., 0]
    wanted = (place * mx.array([1.0, 2.0, -3.0])).sum(axis=-1)
    assert mx.allclose(found, wanted, atol=1e-5)


def test_samples_share_no_field():
    state = flows()
    louder = state._replace(energy=state.energy * mx.array([[1.0], [5.0]]))
    one, two = write_grid(state, 3), write_grid(louder, 3)
    assert mx.array_equal(one[0], two[0])
    assert not mx.allclose(one[1], two[1])


def stepped(state, intake, cells=3):
    """Energies after a step of one and the same carrier, with this intake."""
    mx.random.seed(0)
    config = make_config(field={"cells": cells})
    step = FlowStep(config)
    if cells:
        step.medium.intake = intake
    return step(state, phase(config, 0)).energy


def test_a_fresh_medium_changes_nothing_yet_and_learns_at_once():
    state = flows()._replace(hidden=())
    none = mx.zeros((8, 2))
    assert mx.allclose(stepped(state, none), stepped(state, None, cells=0), atol=1e-6)
    gradient = mx.grad(lambda w: mx.square(stepped(state, w)).sum())(none)
    assert (mx.abs(gradient).max(axis=0) > 0).all()


def test_a_flow_feels_another_through_the_medium_alone():
    state = flows()._replace(hidden=())
    apart = mx.arange(20)[None] == 7
    changed = state._replace(energy=mx.where(apart, 4.0, state.energy))
    for weight, feels in ((0.0, False), (1.0, True)):
        intake = mx.full((8, 2), weight)
        one, two = stepped(state, intake), stepped(changed, intake)
        rest = mx.logical_not(apart)
        assert mx.allclose(one * rest, two * rest).item() is not feels


@pytest.mark.parametrize("name", ["position", "energy"])
def test_the_field_has_the_gradient_of_finite_differences(name):
    state = flows()
    at = state.position[..., ::-1]
    weights = mx.random.normal((2, 20, 2), key=mx.random.key(5))

    def total(a):
        grid = write_grid(state._replace(**{name: a}), 3)
        return (weights * field_read(grid, at, state.alive)).sum()

    start = getattr(state, name)
    way = mx.random.normal(start.shape, key=mx.random.key(6))
    step = 1e-3
    slope = (total(start + step * way) - total(start - step * way)) / (2 * step)
    found = (mx.grad(total)(start) * way).sum()
    assert found.item() == pytest.approx(slope.item(), rel=0.03)

"""Invariants of the simulation, over random configurations."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from energyflow_mlx.config.lattice import (
    AdjointConfig,
    CarrierConfig,
    CubeConfig,
    FieldConfig,
    LatticeConfig,
    MotionConfig,
    SpawnConfig,
)
from energyflow_mlx.lattice.dynamics import FlowStep, phase
from energyflow_mlx.lattice.solve import StepRunner, propagate
from energyflow_mlx.lattice.state import FlowOptions, FlowState, land, launch

CONFIGS = st.builds(
    LatticeConfig,
    cube=st.builds(
        CubeConfig,
        width=st.integers(2, 5),
        height=st.integers(2, 5),
        depth=st.integers(2, 9),
        steps=st.sampled_from([0, 1, 4]),
        output_planes=st.sampled_from(["dual", "far"]),
    ),
    spawn=st.builds(
        SpawnConfig,
        rule=st.sampled_from(["distance", "learned"]),
        per_cell=st.sampled_from([0.0, 0.2, 0.7]),
        max_per_step=st.integers(1, 3),
        threshold=st.sampled_from([0.05, 0.15, 0.4]),
    ),
    carrier=st.builds(
        CarrierConfig,
        hidden=st.sampled_from([4, 9]),
        layers=st.integers(1, 2),
        neuron_hidden=st.just(4),
        neuron_features=st.just(5),
        energy_update=st.sampled_from(["residual", "replace"]),
    ),
    motion=st.builds(
        MotionConfig,
        reflect=st.booleans(),
        z_drift=st.booleans(),
        bound=st.sampled_from([0.1, 0.5, 1.0]),
    ),
    field=st.builds(FieldConfig, cells=st.sampled_from([0, 3])),
    adjoint=st.builds(AdjointConfig, truncate_every=st.integers(0, 2)),
)
SEEDS = st.integers(0, 1000)


def awake_step(config, seed):
    mx.random.seed(seed)
    step = FlowStep(config)
    layer = step.carrier.move_out
    layer.weight = 3 * mx.random.normal(layer.weight.shape)
    layer.bias = mx.random.normal(layer.bias.shape)
    return step


def run(config, seed=0, batch=2, sigma=0.0):
    """All states of a run, the launch first and the landing last."""
    step = awake_step(config, seed)
    surface = mx.random.normal((batch, config.cube.height, config.cube.width))
    key = mx.random.key(seed) if sigma else None
    start = launch(config, surface)
    states = propagate(
        StepRunner(step, config), config, start, FlowOptions(1.0, sigma, key)
    )
    return [start, *states]


def numpy_of(state):
    arrays = {k: v for k, v in state._asdict().items() if k != "hidden"}
    return {name: np.array(value) for name, value in arrays.items()}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS, st.sampled_from([0.0, 0.7]))
def test_positions_stay_inside_the_cube(config, seed, sigma):
    for state in run(config, seed, sigma=sigma):
        position = np.array(state.position)
        assert np.isfinite(position).all()
        assert np.abs(position).max() <= 1.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_every_live_flow_moves_and_dead_flows_keep_everything(config, seed):
    """The reference's integer mask moves rows 0 and 1 only."""
    *states, _ = run(config, seed)
    for before, after in zip(states, states[1:], strict=False):
        a, b = numpy_of(before), numpy_of(after)
        born = b["exists"] & ~a["exists"]
        moved = (a["position"] != b["position"]).any(axis=-1)
        assert moved[a["alive"]].all()
        dead = ~a["alive"] & ~born
        assert not b["alive"][dead].any()
        for name in ("position", "energy", "age", "reached", "face", "path"):
            assert (a[name] == b[name])[dead].all(), name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_age_counts_every_step_of_a_living_flow_once(config, seed):
    """The reference counts reflected flows twice, or no flow at all."""
    *states, _ = run(config, seed)
    for before, after in zip(states, states[1:], strict=False):
        a, b = numpy_of(before), numpy_of(after)
        old = a["exists"]
        assert (b["age"] - a["age"])[old].tolist() == a["alive"][old].tolist()
        assert (b["age"][b["exists"] & ~old] == 0).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_every_created_flow_ends_on_an_output_plane(config, seed):
    """The reference drops unfinished flows, 31 of 32 in a run."""
    *_, last, landed = run(config, seed)
    before, after = numpy_of(last), numpy_of(landed)
    faces = [-1.0, 1.0] if config.cube.is_dual else [1.0]
    assert np.isin(after["position"][..., 2][after["exists"]], faces).all()
    assert not after["alive"].any()
    # Projection changes z alone: side, energy and age are those of the last step.
    for name in ("energy", "age"):
        assert (before[name] == after[name]).all()
    assert (before["position"][..., :2] == after["position"][..., :2]).all()
    projected = before["alive"]
    z = before["position"][..., 2][projected]
    gap = np.abs(after["position"][..., 2][projected] - z)
    np.testing.assert_allclose(after["gap"][projected], gap, atol=1e-6)
    assert (after["gap"][~projected] == 0).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_with_drift_every_first_flow_reaches_a_face_by_itself(config, seed):
    config.motion.z_drift = True
    *_, landed = run(config, seed)
    state = numpy_of(landed)
    cells = config.surface_size
    assert (state["reached"][:, :cells] != 0).all()
    assert (state["gap"] == 0).all()
    assert (state["age"] <= config.total_steps).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_children_stay_within_the_budget_and_start_behind_their_parents(config, seed):
    """Created children are counted, requested ones are not."""
    states = run(config, seed)
    cells = config.surface_size
    for before, after in zip(states[:-2], states[1:-1], strict=True):
        a, b = numpy_of(before), numpy_of(after)
        assert (a["exists"] <= b["exists"]).all()
        assert b["exists"][:, :cells].all()
        born = b["exists"] & ~a["exists"]
        for sample, slot in zip(*np.nonzero(born), strict=True):
            start = b["position"][sample, slot]
            parent = (a["position"][sample] == start).all(axis=-1) & a["alive"][sample]
            assert parent.any()
            assert (b["energy"][sample][parent] == b["energy"][sample, slot]).any()
            assert b["alive"][sample, slot]


def test_memory_holds_the_five_newest_positions(small_config):
    """The ring of positions is filled and used in every step."""
    states = run(
        small_config(cube={"steps": 7}, motion={"z_drift": False, "bound": 0.1})
    )
    path = np.stack([np.array(state.position) for state in states[:-1]])
    for time, state in enumerate(states[:-1]):
        memory = np.array(state.memory).reshape(2, -1, 5, 3)
        for slot in range(5):
            wanted = path[time - slot] if slot <= time else 0.0
            assert (memory[:, :, slot] == wanted).all()


def permuted(state, order):
    return FlowState(
        *(
            tuple(h[:, order] for h in a) if isinstance(a, tuple) else a[:, order]
            for a in state
        )
    )


@pytest.mark.parametrize("index", [0, 1])
def test_permuting_flows_permutes_the_step(small_config, index):
    config = small_config()
    step = awake_step(config, 0)
    state = launch(config, mx.random.normal((2, 4, 5)))
    if index:
        state = step(state, phase(config, 0))
    order = mx.array(np.random.default_rng(0).permutation(config.slots))
    one = permuted(step(state, phase(config, index)), order)
    two = step(permuted(state, order), phase(config, index))
    for (name, a), (_, b) in zip(tree_flatten(one), tree_flatten(two), strict=True):
        assert mx.allclose(a, b, atol=1e-5), name


def test_samples_of_a_batch_do_not_touch_each_other(small_config):
    """The batch size is that of the input, not read off the flows."""
    config = small_config(spawn={"per_cell": 0.15, "threshold": 0.05})
    step = awake_step(config, 0)
    surface = mx.random.normal((3, 4, 5))

    def landed(rows):
        *_, state = propagate(
            StepRunner(step, config), config, launch(config, rows), FlowOptions()
        )
        return state

    together, alone = landed(surface), landed(surface[1:2])
    assert mx.allclose(together.position[1], alone.position[0], atol=1e-5)
    assert mx.allclose(together.energy[1], alone.energy[0], atol=1e-5)


def test_launch_gives_every_cell_of_every_sample_its_flow(small_config):
    config = small_config(spawn={"per_cell": 0.1})
    surface = mx.random.normal((3, 4, 5))
    state = launch(config, surface)
    assert state.exists.sum(axis=1).tolist() == [20] * 3
    assert mx.array_equal(state.energy[:, :20].reshape(3, 4, 5), surface)
    assert state.face[:, :20].sum(axis=1).tolist() == [0.0] * 3


def test_damaged_energies_start_as_zero(small_config):
    config = small_config()
    state = launch(config, mx.full((1, 4, 5), float("nan")))
    assert state.energy.tolist() == [[0.0] * 20]


def test_batch_beyond_the_cap_is_refused_before_work(small_config):
    """The reference gives the last samples of such a batch no flows."""
    config = small_config(cube={"max_active_flows": 50})
    launch(config, mx.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match=r"max_active_flows = 50, got 3 x 20 = 60"):
        launch(config, mx.zeros((3, 4, 5)))


def test_surface_of_another_size_is_refused(small_config):
    with pytest.raises(ValueError, match=r"must be \[B, 4, 5\], got \[1, 5, 4\]"):
        launch(small_config(), mx.zeros((1, 5, 4)))


def test_residual_update_adds_a_share_and_replace_forgets(small_config):
    for update in ("residual", "replace"):
        config = small_config(carrier={"energy_update": update})
        step = awake_step(config, 1)
        low, high = (launch(config, mx.full((1, 4, 5), level)) for level in (-0.5, 0.5))
        change = step(high, phase(config, 0)).energy - high.energy
        assert (mx.abs(change).max().item() <= 1 / 3) == (update == "residual")
        assert mx.abs(step(low, phase(config, 0)).energy).max().item() <= 1.0


def test_truncation_cuts_the_recurrence_but_not_the_sums(small_config):
    def slope(every, **changes):
        config = small_config(
            adjoint={"truncate_every": every}, cube={"steps": 4}, **changes
        )
        step = awake_step(config, 0)

        def total(surface):
            start = launch(config, surface)
            *_, state = propagate(
                StepRunner(step, config), config, start, FlowOptions()
            )
            return state.energy.sum()

        return mx.grad(total)(mx.ones((1, 4, 5)) * 0.3)

    ones = mx.ones((1, 4, 5))
    whole, every_step = slope(0), slope(1)
    assert not mx.allclose(whole, every_step)
    # Cut at every step after the first: the sum and the first step's head remain.
    assert mx.abs(every_step - ones).max().item() < mx.abs(whole - ones).max().item()
    assert mx.abs(every_step).min().item() > 0


def test_landing_twice_changes_nothing(small_config):
    config = small_config()
    state = land(config, launch(config, mx.zeros((1, 4, 5))))
    for a, b in zip(land(config, state), state, strict=True):
        assert a == () or mx.array_equal(a, b)


def test_compiled_step_equals_the_eager_one(small_config):
    config = small_config(spawn={"per_cell": 0.1, "threshold": 0.1})
    step = awake_step(config, 0)
    state = step(launch(config, mx.random.normal((2, 4, 5))), phase(config, 0))
    eager = step(state, phase(config, 1))
    compiled = mx.compile(lambda *s: tuple(step(FlowState(*s), phase(config, 1))))(
        *state
    )
    for (name, a), (_, b) in zip(
        tree_flatten(tuple(eager)), tree_flatten(compiled), strict=True
    ):
        assert mx.allclose(a, b, atol=1e-5), name


def born_after_a_step(small_config, output, **spawn):
    """Children of 20 flows that take one step with this output each."""
    config = small_config(spawn={"per_cell": 1.5, "threshold": 0.25} | spawn)
    flow = FlowStep(config)
    layer = flow.carrier.move_out
    layer.weight, layer.bias = mx.zeros(layer.weight.shape), mx.array(output)
    state = launch(config, mx.zeros((1, 4, 5)))
    after = flow(state, phase(config, 0))
    return after.exists.sum().item() - 20


def test_births_in_cells_ask_for_a_move_aside_and_the_drift_counts_for_nothing(
    small_config,
):
    """A cell of five is half a unit: 0.3 aside is 0.6 cells; the drift is 1 in 3."""
    aside, straight = [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]
    in_cells = {"unit": "cells", "threshold": 0.25}
    assert born_after_a_step(small_config, straight, threshold=0.1) == 20
    assert born_after_a_step(small_config, straight, **in_cells) == 0
    assert born_after_a_step(small_config, aside, **in_cells) == 20
    assert born_after_a_step(small_config, aside, unit="cells", threshold=0.4) == 0


def with_births(score=4.0, **groups):
    """A config in which flows are born by score, and a step that scores all alike."""
    spawn = {"rule": "learned", "per_cell": 1} | groups.pop("spawn", {})
    config = LatticeConfig(
        cube=CubeConfig(width=5, height=4, depth=6),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
        spawn=SpawnConfig(**spawn),
        **groups,
    )
    step = awake_step(config, 0)
    step.birth.weight = mx.zeros_like(step.birth.weight)
    step.birth.bias = mx.array([score])
    return config, step


def test_a_learned_child_heads_for_the_other_face_and_weighs_its_score():
    config, step = with_births()
    start = launch(config, mx.random.normal((2, 4, 5)))
    first = step(start, phase(config, 0))
    parents, children = first.face[:, :20], first.face[:, 20:]
    # All score alike: children stand in the order of their parents.
    assert mx.array_equal(children, -parents)
    assert mx.allclose(first.weight[:, 20:], mx.sigmoid(mx.array(4.0)))
    assert (first.weight[:, :20] == 1).all()
    second = step(first, phase(config, 1))
    assert mx.array_equal(second.face, first.face)


def test_a_launched_flow_has_one_child_and_a_child_has_none():
    config, step = with_births(spawn={"per_cell": 2.5})
    state = launch(config, mx.random.normal((2, 4, 5)))
    for index in range(config.total_steps):
        state = step(state, phase(config, index))
    assert state.exists.sum(axis=1).tolist() == [40, 40]


@pytest.mark.parametrize(("score", "born"), [(-0.9, 0), (-0.8, 20)])
def test_flows_that_score_below_the_threshold_have_no_child(score, born):
    """A third is between the scores, 0.29 and 0.31."""
    config, step = with_births(score, spawn={"threshold": 0.3})
    state = step(launch(config, mx.ones((1, 4, 5))), phase(config, 0))
    assert state.exists.sum().item() == 20 + born


def test_the_score_learns_by_the_weight_of_its_child():
    """Only what reads the weight has a gradient; the choice itself has none."""
    config, step = with_births()
    start = launch(config, mx.random.normal((2, 4, 5)))

    def weight(bias):
        step.birth.bias = bias
        return step(start, phase(config, 0)).weight[:, 20:].sum()

    score = mx.sigmoid(mx.array(1.0)).item()
    slope = mx.grad(weight)(mx.array([1.0])).item()
    assert slope == pytest.approx(40 * score * (1 - score), rel=1e-4)

"""Either way through the lattice gives the gradient of plain backpropagation."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.config import (
    FlowConfig,
    FlowTextConfig,
    LatticeConfig,
    ReconstructionConfig,
)
from energyflow_mlx.config.lattice import (
    AdjointConfig,
    CarrierConfig,
    CubeConfig,
    FieldConfig,
    NoiseConfig,
    SpawnConfig,
)
from energyflow_mlx.data.batching import TargetRows, target_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.lattice.solve import StepRunner, propagate
from energyflow_mlx.lattice.state import FlowOptions, launch
from energyflow_mlx.training.objectives import StepBatch
from energyflow_mlx.training.state import add_gradients
from energyflow_mlx.training.token_rows import TokenRows
from tests.training.small import make_config as make_small_config
from tests.training.small import make_stepper as make_small_stepper
from tests.training.small import objectives

V, E, B, L = 30, 12, 4, 6
KEY = mx.random.key(7)
SETTINGS = {
    "flow": {"flow": FlowConfig(surface=0.3)},
    "flow_text": {
        "flow_text": FlowTextConfig(surface=0.3, text=0.5),
        "reconstruction": ReconstructionConfig(),
    },
}


def make_config(name, *, way="graph", truncate_every=0, compile=False):
    lattice = LatticeConfig(
        cube=CubeConfig(width=5, height=4, depth=6),
        spawn=SpawnConfig(per_cell=0.15, threshold=0.05),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
        noise=NoiseConfig(sigma=0.05),
        adjoint=AdjointConfig(way=way, truncate_every=truncate_every),
    )
    chosen = objectives(**copy.deepcopy(SETTINGS[name]))
    share = "none" if name == "flow" else "last"
    config = make_small_config(objectives=chosen, lattice=lattice, share=share)
    config.token_rows.lazy, config.trainer.compile = False, compile
    return config


def make_stepper(config):
    stepper = make_small_stepper(config, V, E)
    layer = stepper.model.lattice.flow.carrier.move_out
    layer.weight = 3 * mx.random.normal(layer.weight.shape)
    stepper.__post_init__()  # take the new weights over
    return stepper


def make_batch(seed=0, size=B, births=0.0):
    rng = np.random.default_rng(seed)
    ids = mx.array(rng.integers(1, V, (size, L)).astype(np.int32))
    target = rng.normal(size=(size, E)).astype(np.float32)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    rows = TokenRows(mx.zeros(1, mx.int32), mx.zeros(1), mx.zeros(V, mx.int32))
    controls = {"displacement_scale": 1.3, "noise_sigma": 0.04, "births_cost": births}
    controls = {name: mx.array(value) for name, value in controls.items()}
    mask = np.ones((size, L), np.float32)
    targets = target_rows(np.array(ids), mask, mask.size)
    targets = TargetRows(*map(mx.array, targets))
    return StepBatch(ids, mx.array(mask), mx.array(target), rows, controls, targets)


def gradients(stepper, name, batch, key):
    """Gradients of one micro-batch by path."""
    found = stepper.micro_gradients(name, batch, key)
    return found._replace(gradients=stepper.packing.split(found.gradients))


def in_one_graph(stepper, name, batch):
    """Loss and gradients of the same mathematics by plain ``mx.value_and_grad``."""
    model, lattice = stepper.model, stepper.model.lattice
    (objective,) = [o for o in stepper.objectives if o.name == name]
    keys = mx.random.split(KEY, 3)
    _, noise, collector = mx.random.split(keys[1], 3)

    def loss(parameters):
        model.update(tree_unflatten(list(parameters.items())))
        surface = objective.surface(model, batch, keys[0])
        options = FlowOptions(mx.array(1.3), mx.array(0.04), noise)
        steps = StepRunner(lattice.flow, lattice.config)
        start = launch(lattice.config, surface)
        *_, landed = propagate(steps, lattice.config, start, options)
        output = lattice.finish(surface, landed, collector)
        return objective.outcome(model, batch, keys[2], output).loss

    parameters = dict(tree_flatten(model.trainable_parameters()))
    found = mx.value_and_grad(loss)(parameters)
    model.update(tree_unflatten(list(parameters.items())))
    return found


WAYS = {
    "compiled graph": {"compile": True, "way": "graph"},
    "plain graph": {"compile": False, "way": "graph"},
    "compiled steps": {"compile": True, "way": "stepwise"},
    "plain steps": {"compile": False, "way": "stepwise"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["flow", "flow_text"])
def test_gradient_is_that_of_plain_backpropagation(name, way):
    """So mapper, neuron, carrier, memory, collector and move head all learn."""
    stepper, batch = make_stepper(make_config(name, **WAYS[way])), make_batch()
    loss, expected = in_one_graph(stepper, name, batch)
    found = gradients(stepper, name, batch, KEY)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    largest = max(mx.abs(g).max().item() for g in expected.values())
    reached = {p for p, g in expected.items() if mx.abs(g).max().item() > 0}
    assert reached <= set(found.gradients)
    for path, gradient in found.gradients.items():
        error = mx.abs(gradient - expected[path]).max().item()
        assert error <= 2e-5 * largest, path
    for part in ("neuron", "carrier.memory", "carrier.move_out", "carrier.cells.1"):
        assert any(p.startswith(f"lattice.flow.{part}") for p in reached), part


@pytest.mark.parametrize(("debug", "evaluations"), [(False, 1), (True, 5)])
def test_steps_start_before_the_fence_through_the_engine(debug, evaluations):
    """The one evaluation stays the engine's; in a timed run each part has its own."""
    stepper = make_stepper(make_config("flow", way="stepwise", compile=True))
    stepper.engine.debug = debug
    with stepper.engine.batch("update"):
        stepper.update("flow", make_batch(), KEY, 1e-3)
        stepper.engine.fence(stepper.state.arrays())
    steps = stepper.config.lattice.total_steps
    assert stepper.engine.submissions == 2 * steps
    assert stepper.engine.evaluations == evaluations


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_truncated_gradient_is_staged_alike(way):
    config = make_config("flow", truncate_every=2, way=way)
    stepper, batch = make_stepper(config), make_batch()
    _, expected = in_one_graph(stepper, "flow", batch)
    found = gradients(stepper, "flow", batch, KEY)
    for path, gradient in found.gradients.items():
        assert mx.allclose(gradient, expected[path], rtol=1e-3, atol=1e-4), path


def test_micro_batches_of_a_flow_add_up():
    config = make_config("flow")
    config.lattice.noise.sigma = 0.0
    stepper, batch = make_stepper(config), make_batch()
    whole = gradients(stepper, "flow", batch, KEY)
    total = None
    for half in (slice(0, 2), slice(2, 4)):
        part = batch._replace(ids=batch.ids[half], mask=batch.mask[half])
        part = part._replace(target=batch.target[half])
        new = gradients(stepper, "flow", part, KEY)
        total = add_gradients(total, new)
    for path, gradient in whole.gradients.items():
        assert mx.allclose(total.gradients[path], gradient, rtol=1e-3, atol=1e-4), path


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_weights_outlive_compiled_updates(way):
    config = make_config("flow", way=way, compile=True)
    stepper, batch = make_stepper(config), make_batch()
    for seed in range(2):
        report = stepper.update("flow", make_batch(seed), KEY, 1e-3)
        mx.eval(report, stepper.state.arrays())
    out = stepper.model.lattice.eval()(batch.target)
    assert mx.isfinite(out.vector).all().item()
    for path, array in stepper.state.arrays().items():
        assert mx.isfinite(array).all().item(), path


def count_steps(way):
    """Runs of the carrier while the graph of one uncompiled gradient is built."""
    config = make_config("flow", way=way)
    stepper, runs = make_stepper(config), []
    flow = type(stepper.model.lattice.flow)
    carry = flow._carry
    flow._carry = lambda self, *rest: runs.append(1) or carry(self, *rest)
    try:
        gradients(stepper, "flow", make_batch(), KEY)
    finally:
        flow._carry = carry
    return len(runs), config.lattice.total_steps


def test_in_one_graph_no_step_is_computed_twice():
    runs, steps = count_steps("graph")
    assert runs == steps
    assert count_steps("stepwise")[0] == 2 * steps


@pytest.mark.parametrize("name", ["flow_text", "reconstruction"])
def test_the_text_decoder_learns_from_either_update(name):
    stepper = make_stepper(make_config("flow_text"))
    assert stepper.model.decoder.training
    found = gradients(stepper, name, make_batch(), KEY)
    moved = {p for p, g in found.gradients.items() if mx.abs(g).max().item() > 0}
    own = {p for p in stepper.trainable if p.startswith("decoder.")}
    assert len(own) > 5
    assert own <= moved


def test_noise_of_the_schedule_reaches_the_flows():
    """With the same key, another deviation gives another loss."""
    stepper = make_stepper(make_config("flow"))
    losses = set()
    for sigma in (0.0, 0.04, 0.2):
        batch = make_batch()
        batch.controls["noise_sigma"] = mx.array(sigma)
        losses.add(gradients(stepper, "flow", batch, KEY).loss.item())
    assert len(losses) == 3


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_scale_of_the_schedule_reaches_the_flows(way):
    stepper = make_stepper(make_config("flow", way=way))
    losses = set()
    for scale in (0.0, 1.0, 2.0):
        batch = make_batch()
        batch.controls["displacement_scale"] = mx.array(scale)
        losses.add(gradients(stepper, "flow", batch, KEY).loss.item())
    assert len(losses) == 3


def test_objective_asks_the_schedules_of_its_lattice():
    config = make_config("flow")
    motion, noise = config.lattice.motion, config.lattice.noise
    motion.warmup, motion.scale, motion.scale_min, noise.steps = 10, 2.0, 1.0, 100
    (objective,) = make_stepper(config).objectives
    first, later = objective.controls(0), objective.controls(50)
    start = {"displacement_scale": 2.0, "noise_sigma": 0.05, "births_cost": 0.0}
    assert first == start
    assert later["displacement_scale"] < 2.0
    assert later["noise_sigma"] == pytest.approx(0.025)


def test_surface_term_adds_its_weight_and_gives_the_mapper_no_gradient_of_its_own():
    found = {}
    for weight in (0.0, 0.3):
        config = make_config("flow_text")
        config.objectives.flow_text.surface = weight
        stepper = make_stepper(config)
        batch = make_batch()
        found[weight] = gradients(stepper, "flow_text", batch, KEY)
    assert found[0.3].loss.item() > found[0.0].loss.item()
    assert not any("mapper" in path for path in found[0.3].gradients)


def test_text_term_adds_its_weight():
    losses = []
    for weight in (0.1, 0.2, 0.3):
        config = make_config("flow_text")
        config.objectives.flow_text.text = weight
        stepper = make_stepper(config)
        found = gradients(stepper, "flow_text", make_batch(), KEY)
        losses.append(found.loss.item())
    own = found.metrics["own_ce"].item()
    np.testing.assert_allclose(np.diff(losses), 0.1 * own, rtol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "fixed"])
@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_a_choice_of_face_has_the_same_gradient_either_way(kind, way):
    """With more steps after the choice, through which its gradient must pass."""
    config = make_config("flow", way=way)
    config.lattice.readout.faces, config.lattice.ends.kind = "separate", kind
    stepper, batch = make_stepper(config), make_batch()
    loss, expected = in_one_graph(stepper, "flow", batch)
    found = gradients(stepper, "flow", batch, KEY)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    largest = max(mx.abs(g).max().item() for g in expected.values())
    assert set(found.gradients) == set(expected)
    for path, gradient in found.gradients.items():
        error = mx.abs(gradient - expected[path]).max().item()
        assert error <= 2e-5 * largest, path


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_births_and_the_medium_have_the_same_gradient_either_way(way):
    """The score of a parent, what its children cost, and what flows read."""
    config = make_config("flow", way=way)
    config.lattice.readout.faces = "separate"
    config.lattice.spawn = SpawnConfig(rule="learned", per_cell=0.3, threshold=0.2)
    config.lattice.field = FieldConfig(cells=3)
    config.objectives.flow.births = 0.3
    stepper, batch = make_stepper(config), make_batch(births=0.3)
    loss, expected = in_one_graph(stepper, "flow", batch)
    found = gradients(stepper, "flow", batch, KEY)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    largest = max(mx.abs(g).max().item() for g in expected.values())
    for path, gradient in found.gradients.items():
        error = mx.abs(gradient - expected[path]).max().item()
        assert error <= 2e-5 * largest, path
    for part in ("birth.weight", "birth.bias", "medium.intake"):
        assert mx.abs(found.gradients[f"lattice.flow.{part}"]).max().item() > 0, part


@pytest.mark.parametrize("name", ["flow", "flow_text"])
def test_the_surface_of_the_goal_needs_no_key_where_the_ends_drop_out(name):
    """It is laid out without dropout; the surface that launches has it."""
    config = make_config(name)
    config.lattice.ends.dropout = 0.4
    stepper, batch = make_stepper(config), make_batch()
    found = gradients(stepper, name, batch, KEY)
    assert np.isfinite(found.loss.item())
    mapper, vectors = stepper.model.lattice.mapper, batch.target
    goal = stepper.model.lattice.image(vectors)
    assert mapper.training
    mapper.eval()
    assert mx.array_equal(goal, mapper(vectors))


def test_births_cost_the_weight_of_the_children():
    losses = []
    for price in (0.0, 0.5, 1.0):
        config = make_config("flow")
        config.lattice.spawn = SpawnConfig(rule="learned", per_cell=0.3, threshold=0.2)
        config.objectives.flow.births = 2.0  # its schedule says how much of it
        stepper = make_stepper(config)
        found = gradients(stepper, "flow", make_batch(births=price), KEY)
        losses.append(found.loss.item())
    first, second = np.diff(losses)
    assert first == pytest.approx(second, rel=1e-3)
    # Of a batch, with weights between the threshold and 1.
    assert 0.5 * B * 0.2 < first < 0.5 * B


def test_births_below_the_free_share_neither_cost_nor_are_driven_out():
    found = {}
    for free in (0.0, 0.1, 0.9):
        config = make_config("flow")
        config.lattice.spawn = SpawnConfig(rule="learned", per_cell=0.3, threshold=0.2)
        config.objectives.flow.births = 1.0
        config.objectives.flow.births_free = free
        stepper = make_stepper(config)
        found[free] = [
            gradients(stepper, "flow", make_batch(births=cost), KEY)
            for cost in (0.0, 1.0)
        ]
    path = "lattice.flow.birth.bias"
    for free, (without, dear) in found.items():
        paid = dear.loss.item() - without.loss.item()
        full = found[0.0][1].loss.item() - found[0.0][0].loss.item()
        expected = 0.0 if free == 0.9 else full - B * free
        assert paid == pytest.approx(expected, rel=1e-4)
        same = mx.array_equal(dear.gradients[path], without.gradients[path])
        assert same == (free == 0.9)


@pytest.mark.parametrize(
    ("schedule", "costs"),
    [
        ({}, [0.8, 0.8, 0.8, 0.8]),
        ({"births_after": 3}, [0.0, 0.0, 0.8, 0.8]),
        ({"births_over": 4}, [0.2, 0.6, 0.8, 0.8]),
        ({"births_after": 2, "births_over": 4}, [0.0, 0.2, 0.4, 0.8]),
    ],
)
def test_births_are_free_at_first_and_their_cost_rises_to_its_weight(schedule, costs):
    config = make_config("flow")
    for name, value in {"births": 0.8, **schedule}.items():
        setattr(config.objectives.flow, name, value)
    (objective,) = make_stepper(config).objectives
    found = [objective.controls(step)["births_cost"] for step in (0, 2, 3, 9)]
    assert found == pytest.approx(costs)


def test_a_schedule_of_births_is_within_bounds():
    with pytest.raises(InputError, match="flow.births_after must be >= 0, got -1"):
        FlowConfig(births_after=-1)
    with pytest.raises(InputError, match="flow_text.births_over must be <= 2147483647"):
        FlowTextConfig(births_over=2**31)

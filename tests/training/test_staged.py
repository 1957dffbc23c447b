"""The staged gradient of the flow objectives equals that of one graph."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.build.model import build_model, parts_of
from energyflow_mlx.config import Config, LatticeConfig, TrainerConfig
from energyflow_mlx.config.lattice import (
    AdjointConfig,
    CarrierConfig,
    CubeConfig,
    NoiseConfig,
    SpawnConfig,
)
from energyflow_mlx.lattice.solve import StepRunner, propagate
from energyflow_mlx.lattice.state import FlowOptions, launch
from energyflow_mlx.training.objectives import (
    FLOW_OBJECTIVES,
    FLOW_TEXT,
    RECONSTRUCTION,
    Controls,
    StepBatch,
)
from energyflow_mlx.training.optimizer import Rows
from energyflow_mlx.training.update import Stepper, add_gradients

V, E, B, L = 30, 12, 4, 6
KEY = mx.random.key(7)


def make_config(task, **adjoint):
    own = {"share": "none", "trainer": TrainerConfig(ratio=1.0)}
    own = own if task == "flow" else {}
    lattice = LatticeConfig(
        cube=CubeConfig(width=5, height=4, depth=6),
        spawn=SpawnConfig(slots=3, threshold=0.05),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
        noise=NoiseConfig(sigma=0.05),
        adjoint=AdjointConfig(**adjoint),
    )
    config = Config(task=task, lattice=lattice, **own)
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
    config.loss.surface = 0.3
    config.optimizer.lazy_rows = False
    return config


def make_stepper(config):
    model = build_model(config, parts_of(config), V, E)
    layer = model.lattice.flow.carrier.move_out
    layer.weight = 3 * mx.random.normal(layer.weight.shape)
    model.train()
    return Stepper(model, config)


def make_batch(seed=0, size=B):
    rng = np.random.default_rng(seed)
    ids = mx.array(rng.integers(1, V, (size, L)).astype(np.int32))
    target = rng.normal(size=(size, E)).astype(np.float32)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    return StepBatch(ids, ids, ids, mx.ones((size, L)), mx.array(target))


def no_rows():
    return Rows(mx.zeros(1, mx.int32), mx.zeros(1), mx.zeros(1))


def controls(sigma=0.04):
    return Controls(KEY, mx.array(1.3), mx.array(sigma))


def in_one_graph(stepper, objective, batch):
    """Loss and gradients of the same mathematics by plain ``mx.value_and_grad``."""
    model, config = stepper.model, stepper.config
    ends, keys = FLOW_OBJECTIVES[objective], mx.random.split(KEY, 3)
    lattice = model.lattice
    _, noise, collector = mx.random.split(keys[1], 3)

    def loss(parameters):
        model.update(tree_unflatten(list(parameters.items())))
        surface = ends.surface(model, batch, keys[0])
        options = FlowOptions(mx.array(1.3), mx.array(0.04), noise)
        steps = StepRunner(lattice.flow, lattice.config)
        start = launch(lattice.config, surface)
        *_, landed = propagate(steps, lattice.config, start, options)
        output = lattice.finish(surface, landed, collector)
        outcome = ends.outcome(model, batch, no_rows(), config.loss, keys[2], output)
        return outcome.loss

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
@pytest.mark.parametrize("task", ["flow", "flow_text"])
def test_gradient_is_that_of_plain_backpropagation(task, way):
    """Also T and F: mapper, neuron, carrier, memory, collector and move head learn."""
    config = make_config(task, way=WAYS[way]["way"])
    config.trainer.compile = WAYS[way]["compile"]
    stepper, batch = make_stepper(config), make_batch()
    loss, expected = in_one_graph(stepper, task, batch)
    found = stepper.micro_gradients(task, batch, no_rows(), controls())
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    largest = max(mx.abs(g).max().item() for g in expected.values())
    reached = {p for p, g in expected.items() if mx.abs(g).max().item() > 0}
    assert reached <= set(found.gradients)
    for path, gradient in found.gradients.items():
        error = mx.abs(gradient - expected[path]).max().item()
        assert error <= 2e-5 * largest, path
    for part in ("neuron", "carrier.memory", "carrier.move_out", "carrier.cells.1"):
        assert any(p.startswith(f"lattice.flow.{part}") for p in reached), part


def test_steps_start_before_the_fence_through_the_engine():
    """The one evaluation stays the engine's, guarded in debug mode too."""
    stepper = make_stepper(make_config("flow", way="stepwise"))
    stepper.engine.debug = True
    with stepper.engine.batch("update"):
        stepper.update("flow", make_batch(), no_rows(), 1e-3, controls())
        stepper.engine.fence(stepper.state.arrays())
    steps = stepper.config.lattice.total_steps
    assert stepper.engine.submissions == 2 * steps
    assert stepper.engine.evaluations == 1


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_truncated_gradient_is_staged_alike(way):
    config = make_config("flow", truncate_every=2, way=way)
    config.trainer.compile = False
    stepper, batch = make_stepper(config), make_batch()
    _, expected = in_one_graph(stepper, "flow", batch)
    found = stepper.micro_gradients("flow", batch, no_rows(), controls())
    for path, gradient in found.gradients.items():
        assert mx.allclose(gradient, expected[path], rtol=1e-3, atol=1e-4), path


def test_micro_batches_of_a_flow_add_up():
    config = make_config("flow")
    config.trainer.compile = False
    config.lattice.noise.sigma = 0.0
    stepper, batch = make_stepper(config), make_batch()
    whole = stepper.micro_gradients("flow", batch, no_rows(), controls())
    total = None
    for half in (slice(0, 2), slice(2, 4)):
        part = StepBatch(*(a[half] for a in batch))
        new = stepper.micro_gradients("flow", part, no_rows(), controls())
        total = add_gradients(total, new)
    for path, gradient in whole.gradients.items():
        assert mx.allclose(total.gradients[path], gradient, rtol=1e-3, atol=1e-4), path


@pytest.mark.parametrize("way", ["graph", "stepwise"])
def test_weights_outlive_compiled_updates(way):
    config = make_config("flow", way=way)
    stepper, batch = make_stepper(config), make_batch()
    for seed in range(2):
        report = stepper.update("flow", make_batch(seed), no_rows(), 1e-3, controls())
        mx.eval(report, stepper.state.arrays())
    out = stepper.model.lattice.eval()(batch.target)
    assert mx.isfinite(out.vector).all().item()
    for path, array in stepper.state.arrays().items():
        assert mx.isfinite(array).all().item(), path


def count_steps(way):
    """Runs of the carrier while the graph of one uncompiled gradient is built."""
    config = make_config("flow", way=way)
    config.trainer.compile = False
    stepper, runs = make_stepper(config), []
    flow = type(stepper.model.lattice.flow)
    carry = flow._carry
    flow._carry = lambda self, *rest: runs.append(1) or carry(self, *rest)
    try:
        stepper.micro_gradients("flow", make_batch(), no_rows(), controls())
    finally:
        flow._carry = carry
    return len(runs), config.lattice.total_steps


def test_in_one_graph_no_step_is_computed_twice():
    runs, steps = count_steps("graph")
    assert runs == steps
    assert count_steps("stepwise")[0] == 2 * steps


@pytest.mark.parametrize("objective", [FLOW_TEXT, RECONSTRUCTION])
def test_the_text_decoder_learns_from_either_update_of_flow_text(objective):
    """F29: no loss of the reference reaches its decoder, which has no train switch."""
    config = make_config("flow_text")
    config.trainer.compile, config.loss.text = False, 0.5
    stepper = make_stepper(config)
    assert stepper.model.decoder.training
    found = stepper.micro_gradients(objective, make_batch(), no_rows(), controls())
    moved = {p for p, g in found.gradients.items() if mx.abs(g).max().item() > 0}
    own = {p for p in stepper.trainable if p.startswith("decoder.")}
    assert len(own) > 5
    assert own <= moved

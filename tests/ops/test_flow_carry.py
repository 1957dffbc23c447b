"""Flow carry: the native form against the reference, in value and every gradient."""

import io
import itertools

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from energyflow_mlx.config.lattice import CarrierConfig as Carrier
from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.dynamics import FlowStep
from energyflow_mlx.ops.flow_carry import flow_carry
from tests.ops.comparison import assert_close, assert_same_bits

# Widths off the vector width; one layer, two and three.
CARRIERS = {
    "small": Carrier(hidden=8, layers=2, neuron_hidden=6, neuron_features=7),
    "one layer": Carrier(hidden=20, layers=1, neuron_hidden=3, neuron_features=2),
    "three layers": Carrier(hidden=12, layers=3, neuron_hidden=40, neuron_features=33),
}
# Fewer rows than parts, one tile a part, several of them, the last tiles not full.
ROWS = [1, 5, 300, 2300]
# Sums of thousands of rows, in another order.
TOLERANCE = 3e-5


def random_weights(carrier, seed=0):
    """Fused weights of a step, none of them zero."""
    mx.random.seed(seed)
    weights = FlowStep(LatticeConfig(carrier=carrier)).fused()
    return tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape), weights)


def sample(rows, carrier, *, is_first):
    """Flows at the first step or at a later one."""
    layers = 0 if is_first else carrier.layers
    position = mx.random.uniform(-1, 1, (rows, 3))
    memory = mx.random.uniform(-1, 1, (rows, 15))
    shape = (rows, carrier.hidden)
    states = tuple(mx.random.uniform(-1, 1, shape) for _ in range(layers))
    return position, mx.random.normal((rows,)), memory, states


def weighted(backend, *arguments):
    """A scalar of all outputs, of which each weighs differently."""
    found = flow_carry(*arguments, backend=backend)
    total = mx.array(0.0)
    for index, a in enumerate((found.out, *found.states)):
        weight = mx.random.normal(a.shape, key=mx.random.key(index))
        total = total + (weight * a.astype(mx.float32)).sum()
    return total


def gradients(backend, *arguments):
    """Gradients of ``weighted`` by name, weights included."""
    function = mx.grad(lambda *a: weighted(backend, *a), argnums=(0, 1, 2, 3, 4))
    return dict(tree_flatten(function(*arguments)))


CASES = [*itertools.product(CARRIERS, ROWS, (True, False))]


@pytest.mark.parametrize(("carrier", "rows", "is_first"), CASES)
def test_native_form_matches_reference_in_value_and_every_gradient(
    carrier, rows, is_first
):
    weights = random_weights(CARRIERS[carrier])
    arguments = (*sample(rows, CARRIERS[carrier], is_first=is_first), weights)
    ours, plain = (flow_carry(*arguments, backend=b) for b in ("cpu", "reference"))
    for a, b in zip((ours.out, *ours.states), (plain.out, *plain.states), strict=True):
        assert_close(a, b, TOLERANCE)
    expected = gradients("reference", *arguments)
    for name, found in gradients("cpu", *arguments).items():
        assert_close(found, expected[name], TOLERANCE)


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a CPU's choice")
def test_auto_on_a_cpu_is_the_native_form():
    carrier = CARRIERS["small"]
    arguments = (*sample(40, carrier, is_first=False), random_weights(carrier))
    found = flow_carry(*arguments)
    graph = io.StringIO()
    mx.export_to_dot(graph, found.out)
    assert "flow_carry_forward" in graph.getvalue()
    assert_same_bits(found.out, flow_carry(*arguments, backend="cpu").out)


def test_compiled_and_checkpointed_gradients_are_the_plain_ones():
    """The tape is asked for while a graph is built, whatever is around it."""
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    arguments = sample(300, carrier, is_first=False)

    def loss(position, energy):
        return weighted("cpu", position, energy, *arguments[2:], weights)

    expected = mx.grad(loss, argnums=(0, 1))(*arguments[:2])
    compiled = mx.compile(mx.grad(loss, argnums=(0, 1)))
    saved = mx.grad(mx.checkpoint(loss), argnums=(0, 1))
    for _ in range(2):  # a compiled graph runs again with the same primitives
        for way in (compiled, saved):
            for a, b in zip(way(*arguments[:2]), expected, strict=True):
                assert_same_bits(a, b)


def test_gradient_of_a_step_that_was_evaluated_early_computes_it_again():
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    arguments = sample(300, carrier, is_first=False)

    def loss(energy, evaluates):
        found = flow_carry(arguments[0], energy, *arguments[2:], weights, backend="cpu")
        if evaluates:
            mx.eval(found)
        return (found.out**2).sum() + found.states[1].sum()

    early, late = (mx.grad(loss)(arguments[1], e) for e in (True, False))
    assert_same_bits(early, late)


def test_without_a_gradient_the_gates_take_no_memory():
    carrier = Carrier(hidden=64)
    weights = random_weights(carrier)
    arguments = (*sample(4000, carrier, is_first=False), weights)
    mx.eval(arguments)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    found = flow_carry(*arguments, backend="cpu")
    mx.eval(found)
    kept = found.out.nbytes + sum(h.nbytes for h in found.states)
    assert mx.get_peak_memory() - before < 1.5 * kept


def test_equal_input_gives_equal_bits():
    """Threads take tiles as they come; every sum has its order."""
    carrier = CARRIERS["small"]
    arguments = (*sample(2300, carrier, is_first=False), random_weights(carrier))
    one, two = (gradients("cpu", *arguments) for _ in range(2))
    for name, a in one.items():
        assert_same_bits(a, two[name])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_damage_does_not_spread_from_flow_to_flow(backend):
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    position, energy, memory, states = sample(9, carrier, is_first=False)
    fine = flow_carry(position, energy, memory, states, weights, backend=backend)
    energy[3], position[4] = float("nan"), float("inf")
    found = flow_carry(position, energy, memory, states, weights, backend=backend)
    for a in (found.out, *found.states):
        assert mx.isfinite(a).all().item()
    others = mx.array([0, 1, 2, 5, 6, 7, 8])
    assert mx.allclose(found.out[others], fine.out[others], atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_outputs_outside_the_limits_pass_no_gradient(backend):
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    bias = mx.array([100.0, -100.0, 0.0, float("nan")])
    weights = weights._replace(heads=weights.heads._replace(out_bias=bias))
    arguments = (*sample(5, carrier, is_first=True), weights)
    out = flow_carry(*arguments, backend=backend).out
    expected = [10.0, -10.0, 0.0]
    np.testing.assert_array_equal(out[:, [0, 1, 3]], [expected] * 5)
    slope = gradients(backend, *arguments)["4.1.5"]
    assert (np.array(slope) != 0).tolist() == [False, False, True, False]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_state_has_the_dtype_of_its_weights_and_outputs_are_float32(backend):
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    halves = tree_map(lambda a: a.astype(mx.bfloat16), weights)
    arguments = sample(5, carrier, is_first=True)
    found = flow_carry(*arguments, halves, backend=backend)
    assert found.out.dtype == mx.float32
    assert {h.dtype for h in found.states} == {mx.bfloat16}
    mixed = halves._replace(cells=weights.cells)
    found = flow_carry(*arguments, mixed, backend=backend)
    assert {h.dtype for h in found.states} == {mx.float32}


def test_no_flows_need_no_kernel():
    carrier = CARRIERS["small"]
    arguments = sample(0, carrier, is_first=True)
    assert flow_carry(*arguments, random_weights(carrier)).out.shape == (0, 4)


def test_wrong_arguments_are_named():
    carrier = CARRIERS["small"]
    weights = random_weights(carrier)
    position, energy, memory, states = sample(5, carrier, is_first=False)
    with pytest.raises(ValueError, match=r"position must be \[5, 3\], got \[4, 3\]"):
        flow_carry(position[:4], energy, memory, states, weights)
    with pytest.raises(ValueError, match=r"memory must be \[5, 15\], got \[5, 14\]"):
        flow_carry(position, energy, memory[:, :14], states, weights)
    with pytest.raises(
        ValueError, match=r"states must be 2 of \[5, 8\] or none, got \[\[5, 8\]\]"
    ):
        flow_carry(position, energy, memory, states[:1], weights)

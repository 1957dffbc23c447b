from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.config.lattice import CarrierConfig
from energyflow_mlx.lattice.carrier import EnergyCarrier
from energyflow_mlx.ops.flow_carry import advance_cells, apply_heads, sanitize


def make_carrier(**changes):
    small = {"neuron_features": 5, "hidden": 8, "layers": 2}
    return EnergyCarrier(CarrierConfig(**small | changes), start="zero", lean=0.0)


class Step(NamedTuple):
    energy: mx.array
    move: mx.array
    hidden: tuple


def take_step(carrier, features, energy, memory, state, weights=None):
    """What the carrier makes of the neuron's features."""
    heads, cells = weights or carrier.fused()
    x = sanitize(mx.concatenate([features, energy], axis=-1))
    new = advance_cells(x, state, cells)
    out = apply_heads(new[-1], memory, heads)
    return Step(out[:, 0], out[:, 1:], new)


def plain_heads(carrier, top, memory):
    """The heads as the reference describes them, one layer after the other."""
    past = carrier.memory(memory)
    fused = carrier.fuse_in(mx.concatenate([top, past], axis=-1))
    fused = carrier.fuse_out(nn.gelu(fused))
    energy = carrier.energy_out(nn.gelu(carrier.energy_in(fused)))
    move = carrier.move_out(nn.gelu(carrier.move_in(fused)))
    return energy[:, 0], move


def inputs(rows=7, features=5, hidden=8, layers=2):
    state = tuple(mx.random.uniform(-1, 1, (rows, hidden)) for _ in range(layers))
    return (
        mx.random.normal((rows, features)),
        mx.random.normal((rows, 1)),
        mx.random.uniform(-1, 1, (rows, 15)),
        state,
    )


@pytest.mark.parametrize(
    ("hidden", "layers", "count"), [(256, 2, 841_476), (512, 3, 4_798_724)]
)
def test_carrier_has_the_reference_parameter_count(hidden, layers, count):
    carrier = make_carrier(neuron_features=64, hidden=hidden, layers=layers)
    size = sum(a.size for _, a in tree_flatten(carrier.parameters()))
    # One bias vector and ``bhn`` instead of the reference's two bias vectors.
    assert size == count - layers * 2 * hidden


def test_layers_with_nothing_between_them_are_multiplied_without_changing_the_result():
    carrier = make_carrier()
    carrier.move_out.weight = mx.random.normal((3, 64))
    features, energy, memory, state = inputs()
    out = take_step(carrier, features, energy, memory, state)
    expected_energy, expected_move = plain_heads(carrier, out.hidden[-1], memory)
    assert mx.allclose(out.energy, expected_energy, atol=1e-5)
    assert mx.allclose(out.move, expected_move, atol=1e-5)


def test_recurrent_layers_feed_each_other():
    carrier = make_carrier()
    features, energy, memory, state = inputs()
    out = take_step(carrier, features, energy, memory, state)
    x = mx.concatenate([features, energy], axis=-1)
    first = carrier.cells[0](x, state[0])
    assert mx.array_equal(out.hidden[0], first)
    assert mx.allclose(out.hidden[1], carrier.cells[1](first, state[1]))


def test_no_state_stands_for_zeros():
    carrier = make_carrier()
    features, energy, memory, state = inputs()
    zeros = tuple(mx.zeros_like(h) for h in state)
    fresh = take_step(carrier, features, energy, memory, ())
    given = take_step(carrier, features, energy, memory, zeros)
    for a, b in zip(fresh.hidden, given.hidden, strict=True):
        assert mx.allclose(a, b, atol=1e-6)


def test_fresh_carrier_moves_nothing():
    carrier = make_carrier()
    assert mx.abs(take_step(carrier, *inputs()).move).max().item() == 0.0


def test_memory_changes_the_heads_and_gets_a_gradient():
    """No caller of the reference gives the memory anything to read."""
    carrier = make_carrier()
    features, energy, memory, state = inputs()
    with_past = take_step(carrier, features, energy, memory, state).energy
    without = take_step(carrier, features, energy, mx.zeros_like(memory), state).energy
    assert not mx.allclose(with_past, without)

    def loss():
        return take_step(carrier, features, energy, memory, state).energy.sum()

    _, grads = nn.value_and_grad(carrier, loss)()
    for layer in ("memory", "fuse_in", "fuse_out"):
        assert mx.abs(grads[layer]["weight"]).max().item() > 0, layer


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_damaged_inputs_give_finite_outputs(bad):
    carrier = make_carrier()
    features, energy, memory, state = inputs()
    features[3] = bad
    out = take_step(carrier, features, energy, memory, state)
    for a in (out.energy, out.move, *out.hidden):
        assert mx.isfinite(a).all().item()


def test_damaged_weights_move_nothing_instead_of_spreading():
    carrier = make_carrier()
    carrier.cells[0].Wx = mx.full(carrier.cells[0].Wx.shape, float("nan"))
    out = take_step(carrier, *inputs())
    assert mx.abs(out.move).max().item() == 0.0
    assert mx.abs(out.energy).max().item() == 0.0


def test_sanitize_replaces_nan_and_clips():
    x = mx.array([float("nan"), float("inf"), -float("inf"), 3.0, -12.0])
    assert sanitize(x).tolist() == [0.0, 10.0, -10.0, 3.0, -10.0]
    slope = mx.grad(lambda x: (sanitize(x) * mx.arange(1.0, 6.0)).sum())(x)
    assert slope.tolist() == [0.0, 0.0, 0.0, 4.0, 0.0]


def test_state_stays_float32_when_the_weights_are_bfloat16():
    """The reference rounds the state to bfloat16 between steps."""
    carrier = make_carrier()
    carrier.set_dtype(mx.bfloat16)
    out = take_step(carrier, *inputs())
    assert {a.dtype for a in (out.energy, out.move, *out.hidden)} == {mx.float32}
    halved = make_carrier(gru_float32=False)
    halved.set_dtype(mx.bfloat16)
    features, energy, memory, _ = inputs()
    assert (
        take_step(halved, features, energy, memory, ()).hidden[0].dtype == mx.bfloat16
    )


def test_weights_fused_before_give_the_same_step():
    carrier = make_carrier()
    for layer in (carrier.memory, carrier.fuse_in, carrier.fuse_out, carrier.move_out):
        layer.bias = mx.random.normal(layer.bias.shape)
    arguments = inputs()
    given = tree_flatten(take_step(carrier, *arguments, carrier.fused()))
    now = tree_flatten(take_step(carrier, *arguments))
    for (name, a), (_, b) in zip(given, now, strict=True):
        assert mx.array_equal(a, b), name

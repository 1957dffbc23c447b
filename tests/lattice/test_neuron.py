import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from energyflow_mlx.lattice.neuron import SimpleNeuron
from energyflow_mlx.ops.flow_carry import neuron_features


def features(neuron, position, energy):
    return neuron_features(position, energy, neuron.fused())


def test_neuron_has_the_size_of_the_reference_plus_its_nine_lost_features():
    neuron = SimpleNeuron(32, 64)
    count = sum(a.size for _, a in tree_flatten(neuron.parameters()))
    assert count == 3_504 + 9 * 32
    assert features(neuron, mx.zeros((5, 3)), mx.zeros((5, 1))).shape == (5, 64)


def test_positions_go_in_as_they_are_and_every_coordinate_feature_counts():
    """The reference normalises twice and drops 9 of 12 coordinate features."""
    neuron = SimpleNeuron(8, 4)
    position, energy = mx.random.uniform(-1, 1, (6, 3)), mx.random.normal((6, 1))
    for part in (neuron.coordinates, *neuron.layers):
        part.bias = mx.random.normal(part.bias.shape)
    inner = neuron.coordinates
    x = mx.concatenate([inner(position), energy], axis=-1)
    for layer, norm in zip(neuron.layers, neuron.norms, strict=False):
        x = nn.gelu(norm(layer(x)))
    expected = neuron.layers[-1](x)
    assert mx.allclose(
        features(neuron, position, energy), expected, rtol=1e-4, atol=1e-4
    )

    def loss(weight):
        inner.weight = weight
        return (features(neuron, position, energy) ** 2).sum()

    slope = mx.grad(loss)(inner.weight)
    assert (mx.abs(slope).max(axis=1) > 0).all().item()


def test_energy_and_position_both_change_the_features():
    neuron = SimpleNeuron(8, 4)
    base = features(neuron, mx.zeros((1, 3)), mx.zeros((1, 1)))
    assert not mx.allclose(base, features(neuron, mx.zeros((1, 3)), mx.ones((1, 1))))
    assert not mx.allclose(base, features(neuron, mx.ones((1, 3)), mx.zeros((1, 1))))

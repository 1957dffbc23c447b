import mlx.core as mx
import pytest

from energyflow_mlx.nn.activations import activation
from energyflow_mlx.ops import gelu


@pytest.mark.parametrize("name", ["exact", "tanh"])
def test_forms_are_chosen_by_name(name):
    x = mx.linspace(-4, 4, 99)
    assert mx.array_equal(activation(name)(x), gelu(x, name))


def test_the_two_forms_differ():
    x = mx.linspace(-4, 4, 99)
    assert mx.abs(activation("exact")(x) - activation("tanh")(x)).max().item() > 1e-4


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"\[activation\] name must be one of"):
        activation("relu")

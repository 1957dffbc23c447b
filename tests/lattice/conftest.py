"""Small lattices with weights that really move the flows."""

import mlx.core as mx
import pytest

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice import EnergyLattice

SMALL = {
    "width": 5,
    "height": 4,
    "depth": 6,
    "spawn_slots": 0,
    "carrier_hidden": 8,
    "carrier_layers": 2,
    "neuron_hidden": 6,
    "neuron_features": 7,
    "displacement_scale": 1.0,
}


@pytest.fixture(autouse=True)
def _uncompiled(request):
    """Compiling for every random configuration would take minutes."""
    if "compiled" in request.keywords:
        yield
        return
    mx.disable_compile()
    yield
    mx.enable_compile()


def wake(flow, strength=3.0):
    """Give the displacement head's last layer, zero at the start, random weights."""
    layer = flow.carrier.move_out
    layer.weight = strength * mx.random.normal(layer.weight.shape)
    layer.bias = mx.random.normal(layer.bias.shape)


@pytest.fixture
def small_config():
    """Make a small config with some fields changed."""
    return lambda **changes: LatticeConfig(**{**SMALL, **changes})


@pytest.fixture
def small_lattice(small_config):
    """Make a small lattice for vectors of 6 numbers, its displacement head awake."""

    def make(seed=0, **changes):
        mx.random.seed(seed)
        lattice = EnergyLattice(small_config(**changes), 6)
        wake(lattice.flow)
        return lattice

    return make

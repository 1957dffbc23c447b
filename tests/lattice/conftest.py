"""Small lattices with weights that really move the flows."""

import dataclasses

import mlx.core as mx
import pytest

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice import EnergyLattice

SMALL = {
    "cube": {"width": 5, "height": 4, "depth": 6},
    "spawn": {"per_cell": 0},
    "carrier": {"hidden": 8, "layers": 2, "neuron_hidden": 6, "neuron_features": 7},
    "motion": {"scale": 1.0},
}


def make_config(**groups):
    """A small config with some settings of some groups changed."""
    return LatticeConfig(
        **{
            group.name: group.default_factory(
                **(SMALL.get(group.name, {}) | groups.get(group.name, {}))
            )
            for group in dataclasses.fields(LatticeConfig)
        }
    )


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
    """Make a small config; arguments as in ``make_config``."""
    return make_config


@pytest.fixture
def small_lattice():
    """Make a small lattice for vectors of 6 numbers, its displacement head awake."""

    def make(seed=0, **groups):
        mx.random.seed(seed)
        lattice = EnergyLattice(make_config(**groups), 6)
        wake(lattice.flow)
        return lattice

    return make

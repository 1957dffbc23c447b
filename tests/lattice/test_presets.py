import math

import mlx.core as mx
import pytest

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.lattice import EnergyLattice

SIZES = {
    "debug": (20, 20, 10, 5),
    "experiment": (28, 28, 40, 20),
    "optimized": (100, 100, 50, 25),
}


def read(checkout, name):
    omegaconf = pytest.importorskip("omegaconf")
    values = omegaconf.OmegaConf.load(checkout / "conf" / "lattice" / f"{name}.yaml")
    values.pop("defaults")
    schema = omegaconf.OmegaConf.structured(LatticeConfig)
    return omegaconf.OmegaConf.to_object(omegaconf.OmegaConf.merge(schema, values))


@pytest.mark.parametrize("name", SIZES)
def test_preset_has_its_size(checkout, name):
    config = read(checkout, name)
    width, height, depth, steps = SIZES[name]
    assert (config.width, config.height, config.depth) == (width, height, depth)
    assert config.total_steps == steps
    assert config.slots <= config.max_active_flows
    assert config.scatter == "bilinear"
    assert config.z_drift


@pytest.mark.parametrize(
    ("depth", "steps"), [(1, 2), (2, 2), (3, 2), (5, 3), (10, 5), (11, 6), (50, 25)]
)
def test_steps_are_half_the_depth_rounded_up_but_at_least_two(depth, steps):
    assert LatticeConfig(depth=depth).total_steps == steps
    assert LatticeConfig(depth=depth, steps=9).total_steps == 9
    assert math.ceil(depth / 2) <= steps


def test_fresh_debug_lattice_covers_its_surface_and_uses_both_faces(checkout):
    """F7: 0.06 % of the reference's output cells are not zero."""
    lattice = EnergyLattice(read(checkout, "debug"), 32)
    found = {
        name: value.item()
        for name, value in lattice(mx.random.normal((2, 32))).statistics.items()
    }
    assert found["covered"] >= 0.6
    assert found["completed"] == 1.0
    assert found["reached_near"] == found["reached_far"] == 0.5
    assert found["steps"] == 5.0
    assert found["path"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1}, r"lattice\.width must be >= 2, got 1"),
        ({"depth": 0}, r"lattice\.depth must be >= 1"),
        ({"output_planes": "both"}, r"lattice\.output_planes must be one of dual, far"),
        ({"scatter": "cubic"}, r"lattice\.scatter must be one of"),
        ({"dropout": 1.0}, r"lattice\.dropout must be in \[0, 1\)"),
        ({"displacement_bound": 1.5}, r"displacement_bound must be <= 1"),
        ({"displacement_scale": 0.5}, r"displacement_scale_min must be <= "),
        ({"spawn_threshold": 0.0}, r"lattice\.spawn_threshold must be > 0"),
        ({"max_active_flows": 407}, r"max_active_flows must be >= 408"),
        ({"face_tie": 2.0}, r"lattice\.face_tie must be <= 1"),
        (
            {"proximity_weight": 0.0, "path_length_weight": 0.0},
            r"lattice\.proximity_weight must be positive",
        ),
    ],
)
def test_value_out_of_range_is_refused_by_its_key(changes, message):
    with pytest.raises(InputError, match=message):
        LatticeConfig(**changes)

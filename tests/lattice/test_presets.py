import dataclasses
import math

import mlx.core as mx
import pytest

from energyflow_mlx.config.lattice import CubeConfig, LatticeConfig
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
    assert (config.cube.width, config.cube.height, config.cube.depth) == (
        width,
        height,
        depth,
    )
    assert config.total_steps == steps
    assert config.slots <= config.cube.max_active_flows
    assert config.readout.scatter == "bilinear"
    assert config.motion.z_drift


@pytest.mark.parametrize(
    ("depth", "steps"), [(1, 2), (2, 2), (3, 2), (5, 3), (10, 5), (11, 6), (50, 25)]
)
def test_steps_are_half_the_depth_rounded_up_but_at_least_two(depth, steps):
    assert LatticeConfig(cube=CubeConfig(depth=depth)).total_steps == steps
    assert LatticeConfig(cube=CubeConfig(depth=depth, steps=9)).total_steps == 9
    assert math.ceil(depth / 2) <= steps


def test_fresh_debug_lattice_covers_its_surface_and_uses_both_faces(checkout):
    """0.06 % of the reference's output cells are not zero."""
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
    ("group", "changes", "message"),
    [
        ("cube", {"width": 1}, r"lattice\.cube\.width must be >= 2, got 1"),
        ("cube", {"depth": 0}, r"lattice\.cube\.depth must be >= 1"),
        (
            "cube",
            {"output_planes": "both"},
            r"lattice\.cube\.output_planes must be one of dual, far",
        ),
        ("cube", {"max_active_flows": 407}, r"cube\.max_active_flows must be >= 408"),
        ("spawn", {"per_cell": -0.1}, r"lattice\.spawn\.per_cell must be >= 0"),
        ("spawn", {"threshold": 0.0}, r"lattice\.spawn\.threshold must be > 0"),
        ("carrier", {"hidden": 3}, r"lattice\.carrier\.hidden must be >= 4"),
        ("carrier", {"energy_update": "add"}, r"carrier\.energy_update must be one of"),
        ("motion", {"bound": 1.5}, r"lattice\.motion\.bound must be <= 1"),
        ("motion", {"scale": 0.5}, r"lattice\.motion\.scale_min must be <= "),
        ("motion", {"face_tie": 2.0}, r"lattice\.motion\.face_tie must be <= 1"),
        ("motion", {"interval": 0}, r"lattice\.motion\.interval must be >= 1"),
        ("motion", {"start": "one"}, r"lattice\.motion\.start must be one of"),
        ("readout", {"scatter": "cubic"}, r"lattice\.readout\.scatter must be one of"),
        (
            "readout",
            {"proximity_weight": 0.0, "path_length_weight": 0.0},
            r"lattice\.readout\.proximity_weight must be positive",
        ),
        ("noise", {"sigma": -0.1}, r"lattice\.noise\.sigma must be >= 0"),
        ("ends", {"dropout": 1.0}, r"lattice\.ends\.dropout must be in \[0, 1\)"),
        ("ends", {"width_cap": 0}, r"lattice\.ends\.width_cap must be >= 1"),
        ("adjoint", {"way": "tape"}, r"adjoint\.way must be one of graph, stepwise"),
    ],
)
def test_value_out_of_range_is_refused_by_its_key(group, changes, message):
    kind = {f.name: f.default_factory for f in dataclasses.fields(LatticeConfig)}
    with pytest.raises(InputError, match=message):
        LatticeConfig(**{group: kind[group](**changes)})

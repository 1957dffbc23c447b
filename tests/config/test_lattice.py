"""Settings of the lattice: nested on the command line, in JSON, and by old names."""

import dataclasses
import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from energyflow_mlx.config import LatticeConfig, config_from_json
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.config.upgrade import REMOVED, RENAMED
from energyflow_mlx.errors import InputError

register()


def compose_flow(*overrides):
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        words = ["+experiment=flow", "run.dir=x", *overrides]
        return OmegaConf.to_object(compose("config", words))


def leaves():
    return {
        f"{group}.{name}"
        for group, values in dataclasses.asdict(LatticeConfig()).items()
        for name in values
    }


def test_a_nested_setting_can_be_given_on_the_command_line():
    config = compose_flow("lattice.cube.width=30", "lattice.noise.sigma=0.1")
    assert config.lattice.cube.width == 30
    assert config.lattice.noise.sigma == 0.1
    assert config.lattice.cube.height == 20


def test_a_preset_changes_what_it_names_and_keeps_the_other_defaults():
    lattice = compose_flow("lattice=experiment").lattice
    assert (lattice.carrier.hidden, lattice.adjoint.way) == (512, "stepwise")
    assert lattice.noise == LatticeConfig().noise
    assert lattice.motion.decay == LatticeConfig().motion.decay


@pytest.mark.parametrize("preset", ["debug", "experiment", "optimized"])
def test_the_flow_experiment_has_a_slot_for_a_child_of_every_cell(preset):
    config = compose_flow(f"lattice={preset}")
    lattice = config.lattice
    assert lattice.spare_slots == lattice.surface_size == lattice.slots / 2
    assert config.trainer.micro_batch <= lattice.most_samples


def test_the_flow_experiment_leaves_work_to_the_flows():
    lattice = compose_flow().lattice
    assert (lattice.ends.kind, lattice.readout.faces) == ("divided", "separate")
    assert lattice.spawn.rule == "learned"
    assert LatticeConfig().ends.kind == "mlp"  # of runs that name no ends


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ends.far=0.05"], r"lattice.ends.far must be >= 0.1, .* got 0.05"),
        (["ends.near=1.5"], r"lattice.ends.near must be <= 1, got 1.5"),
        (["ends.shift=16"], r"lattice.ends.shift must be <= 15, .* got 16"),
        (["readout.faces=merged"], r"lattice.readout.faces must be separate with"),
        (["spawn.threshold=1"], r"lattice.spawn.threshold must be < 1 with"),
        (["spawn.rule=often"], r"lattice.spawn.rule must be one of distance, learned"),
        (["field.cells=1"], r"lattice.field.cells must be 0 or >= 2, got 1"),
    ],
)
def test_what_does_not_fit_the_divided_ends_is_refused(words, message):
    with pytest.raises((InputError, HydraException), match=message):
        compose_flow(*(f"lattice.{word}" for word in words))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lattice.cube.widht=30", "widht"),
        ("lattice.width=30", "width"),
        ("lattice.cube.width=wide", r"lattice\.cube\.width"),
    ],
)
def test_misspelt_keys_and_wrong_types_fail_naming_the_key(override, named):
    with pytest.raises(HydraException, match=named):
        compose_flow(override)


def test_a_nested_value_out_of_range_is_refused_by_its_full_key():
    with pytest.raises(InputError, match=r"lattice\.spawn\.threshold must be > 0"):
        compose_flow("lattice.spawn.threshold=0")


def test_nested_settings_survive_json_and_unknown_ones_are_named():
    config = compose_flow("lattice=optimized", "lattice.cube.depth=7")
    values = json.loads(json.dumps(config.to_json()))
    again = config_from_json(values)
    assert again == config
    assert type(again.lattice.cube) is type(config.lattice.cube)
    values["lattice"]["cube"]["weight"] = 1
    with pytest.raises(InputError, match=r"unknown key lattice\.cube\.weight"):
        config_from_json(values)


def test_every_old_name_has_a_place_of_its_own():
    assert len(set(RENAMED.values())) == len(RENAMED)
    counted = {"spawn.slots"}  # by the second version; today it is per cell
    assert set(RENAMED.values()) - counted <= leaves()
    assert not set(RENAMED) & set(REMOVED)

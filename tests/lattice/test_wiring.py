"""Every setting of the lattice reaches what it is there to change."""

import dataclasses

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice import (
    EnergyLattice,
    displacement_scale,
    exploration_sigma,
)
from tests.lattice.conftest import make_config, wake

STEP = 150  # a training step at which both schedules are on their way down
BASE = {
    "spawn.per_cell": 0.15,
    "spawn.threshold": 0.05,
    "motion.scale": 2.0,
    "noise.sigma": 0.05,
    "ends.dropout": 0.1,
}
FREE = {"motion.z_drift": False}  # flows that must be projected: gaps are not 0
IMPORTANCE = {"readout.weighting": "importance", **FREE}
PARTS = {"ends.near": 0.8, "ends.far": 0.6}
DIVIDED = {"ends.kind": "divided", "readout.faces": "separate", **PARTS, **FREE}
# Another value of every setting, and the settings beside which it matters.
OTHERS = {
    "cube.width": (6, {}),
    "cube.height": (5, {}),
    "cube.depth": (5, {}),
    "cube.steps": (5, {}),
    "cube.output_planes": ("far", {}),
    "cube.max_active_flows": (40, {}),
    "spawn.rule": ("learned", {}),
    "spawn.per_cell": (0.25, {}),
    "spawn.max_per_step": (2, {}),
    "spawn.threshold": (1.0, {}),
    "spawn.unit": ("cells", {"spawn.threshold": 0.25}),
    "carrier.hidden": (12, {}),
    "carrier.layers": (1, {}),
    "carrier.neuron_hidden": (5, {}),
    "carrier.neuron_features": (5, {}),
    "carrier.gru_float32": (False, {}),
    "carrier.energy_update": ("replace", {}),
    "motion.reflect": (False, {}),
    "motion.z_drift": (False, {}),
    "motion.face_tie": (0.9, {}),
    "motion.bound": (0.2, {}),
    "motion.scale": (3.0, {}),
    "motion.scale_min": (0.5, {}),
    "motion.warmup": (120, {}),
    "motion.decay": (0.95, {}),
    "motion.interval": (25, {}),
    "motion.start": ("xavier", {}),
    "motion.lean": (0.3, {}),
    "motion.freeze": (True, {}),
    "readout.scatter": ("nearest", {}),
    "readout.weighting": ("importance", {}),
    "readout.faces": ("separate", {}),
    "readout.proximity_weight": (0.2, IMPORTANCE),
    "readout.path_length_weight": (0.9, IMPORTANCE),
    "readout.safe_distance": (0.2, IMPORTANCE),
    "noise.sigma": (0.1, {}),
    "noise.steps": (300, {}),
    "noise.on_z": (True, {}),
    "ends.kind": ("linear", {}),
    "ends.near": (0.6, DIVIDED),
    "ends.far": (0.4, DIVIDED),
    "ends.shift": (0, DIVIDED),
    "field.cells": (3, {}),
    "ends.width_cap": (5, {}),
    "ends.dropout": (0.3, {}),
    "adjoint.truncate_every": (2, {}),
}
# The lattice itself does not ask how it is differentiated; tests of training do.
READ_BY_TRAINING = {"adjoint.way"}


def nested(values):
    groups = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def vectors(rows=2):
    return mx.random.normal((rows, 6), key=mx.random.key(7))


def controls(config, step=STEP):
    """Arguments of a forward pass at a training step."""
    return {
        "displacement_scale": mx.array(displacement_scale(config, step)),
        "noise_sigma": mx.array(exploration_sigma(config, step)),
        "key": mx.random.key(3),
    }


def observe(values):
    """All that a lattice shows: weights, training, gradients, evaluation, bfloat16."""
    config = make_config(**nested(values))
    mx.random.seed(0)
    lattice = EnergyLattice(config, 6)
    seen = [a for _, a in tree_flatten(lattice.parameters())]
    wake(lattice.flow, strength=1.0)

    def loss():
        out = lattice(vectors(), **controls(config))
        return (out.vector**2).mean(), out.vector

    try:
        (_, trained), gradients = nn.value_and_grad(lattice, loss)()
    except ValueError as refused:
        return [str(refused)]
    lattice.eval()
    seen += [trained, lattice(vectors()).vector]
    seen += [a for _, a in tree_flatten(gradients)]
    lattice.set_dtype(mx.bfloat16)
    seen.append(lattice(vectors().astype(mx.bfloat16)).vector)
    return [np.array(a) for a in seen]


def is_equal(one, two):
    return len(one) == len(two) and all(
        np.array_equal(a, b) for a, b in zip(one, two, strict=True)
    )


def leaves():
    return {
        f"{group.name}.{leaf.name}"
        for group in dataclasses.fields(LatticeConfig)
        for leaf in dataclasses.fields(group.default_factory)
    }


def test_table_of_settings_is_complete():
    assert leaves() == OTHERS.keys() | READ_BY_TRAINING


@pytest.mark.parametrize("leaf", OTHERS)
def test_every_setting_changes_something(leaf):
    other, beside = OTHERS[leaf]
    base = BASE | beside
    assert not is_equal(observe(base), observe(base | {leaf: other}))


def test_equal_settings_show_the_same():
    assert is_equal(observe(BASE), observe(BASE))


def test_sizes_of_the_config_reach_the_built_lattice():
    carrier = {"hidden": 12, "layers": 3, "neuron_hidden": 5, "neuron_features": 9}
    lattice = EnergyLattice(make_config(carrier=carrier, ends={"width_cap": 11}), 6)
    cells = lattice.flow.carrier.cells
    assert [cell.Wx.shape for cell in cells] == [(36, 10), (36, 12), (36, 12)]
    assert [a.weight.shape for a in lattice.flow.neuron.layers] == [
        *((5, 13), (5, 5), (9, 5))
    ]
    assert lattice.mapper.stack.layers[0].weight.shape == (11, 6)
    assert lattice.collector.stack.layers[0].weight.shape == (11, 20)


def test_scheduled_noise_moves_flows_in_training_and_never_in_evaluation(
    small_lattice,
):
    lattice = small_lattice(noise={"sigma": 0.2})
    noisy = controls(lattice.config, 0)
    quiet = noisy | {"noise_sigma": 0.0}
    surface = lattice.mapper(vectors())
    for door, given in ((lattice, vectors()), (lattice.from_surface, surface)):
        lattice.train()
        strayed = door(given, **noisy).flows.position
        straight = door(given, **quiet).flows.position
        assert mx.abs(strayed - straight).max().item() > 0.05
        lattice.eval()
        calm = door(given, **noisy).flows.position
        assert mx.array_equal(calm, door(given, **quiet).flows.position)


def test_training_starts_with_longer_moves_than_evaluation_takes(small_lattice):
    lattice = small_lattice(motion={"scale": 2.0, "scale_min": 0.5})
    config = lattice.config

    def sideways(**given):
        return lattice(vectors(), **given).statistics["sideways"].item()

    at_start = sideways(displacement_scale=displacement_scale(config, 0))
    at_end = sideways(displacement_scale=displacement_scale(config, 100_000))
    lattice.eval()
    assert sideways() == at_end != at_start

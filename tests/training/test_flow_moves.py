"""Flows that must move: the displacement head between fixed ends."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config, FlowConfig, LatticeConfig, TrainerConfig
from energyflow_mlx.config.lattice import (
    CarrierConfig,
    CubeConfig,
    MotionConfig,
    SpawnConfig,
)
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.training.objectives.base import add_noise
from energyflow_mlx.training.objectives.flow import hide_cells
from tests.training.small import objectives


def make_config(folder, name="run", *, frozen=False, **changes):
    lattice = LatticeConfig(
        cube=CubeConfig(width=6, height=6, depth=4),
        spawn=SpawnConfig(per_cell=0),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
        motion=MotionConfig(freeze=frozen),
    )
    settings = {"max_steps": 2, "micro_batch": 32, "compile": False} | changes
    trainer = TrainerConfig(**{"train": "flow", "keep": 1} | settings)
    flow = objectives(flow=FlowConfig(lr=1e-2))
    config = Config(objectives=flow, share="none", lattice=lattice, trainer=trainer)
    config.data.train = [str(folder / "train.npy")]
    config.data.val = [str(folder / "val.npy")]
    config.data.pairs = True
    config.run.dir = str(folder / name)
    return config


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """Pairs: a vector, and what its surface reads as one column further."""
    folder = tmp_path_factory.mktemp("carried")
    rows = np.random.default_rng(0).normal(size=(640, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    config = make_config(folder)
    lattice = build_model(config, {"lattice"}, 0, 24).lattice
    surface = lattice.mapper(mx.array(rows))
    moved = mx.pad(surface[..., :-1], ((0, 0), (0, 0), (1, 0)))
    pairs = np.concatenate([rows, lattice.collector(moved)], axis=1)
    np.save(folder / "train.npy", pairs[:512])
    np.save(folder / "val.npy", pairs[512:])
    return folder


def test_a_trained_displacement_head_carries_what_a_frozen_one_cannot(carried):
    """The ablation in small: mixing that only moves between fixed ends can do."""
    cosine = {}
    for frozen in (False, True):
        name = f"frozen-{frozen}"
        config = make_config(carried, name, frozen=frozen, max_steps=80)
        cosine[frozen] = run(config)["final"]["cosine"]
    assert cosine[False] > 0.8
    assert cosine[True] < 0.6


def test_training_the_flows_alone_leaves_the_ends_as_they_were(carried):
    config = make_config(carried, "ends")
    before = dict(tree_flatten(build_model(config, {"lattice"}, 0, 24).parameters()))
    run(config)
    after = dict(tree_flatten(load(config.run.dir).model.parameters()))
    changed = {p for p in after if not mx.array_equal(before[p], after[p]).item()}
    assert changed
    assert all(path.startswith("lattice.flow.") for path in changed)


def parameters_after(config):
    """Those of a finished run, and those that it began with."""
    before = dict(tree_flatten(build_model(config, {"lattice"}, 0, 24).parameters()))
    run(config)
    after = dict(tree_flatten(load(config.run.dir).model.parameters()))
    return before, after


def test_fixed_ends_come_out_of_a_run_as_they_were_drawn(carried):
    """Not even weight decay touches them; what a checkpoint holds answers the same."""
    config = make_config(carried, "fixed", train="all")
    config.lattice.ends.kind, config.optimizer.weight_decay = "fixed", 0.1
    before, after = parameters_after(config)
    ends = ["lattice.collector.direct", "lattice.mapper.direct"]
    assert sorted(p for p in after if not p.startswith("lattice.flow.")) == ends
    assert all(mx.array_equal(before[p], after[p]).item() for p in ends)
    assert not mx.array_equal(
        before["lattice.flow.carrier.move_out.bias"],
        after["lattice.flow.carrier.move_out.bias"],
    )


def test_linear_ends_train(carried):
    config = make_config(carried, "linear", train="all")
    config.lattice.ends.kind = "linear"
    before, after = parameters_after(config)
    for path in ("lattice.collector.direct", "lattice.mapper.direct"):
        assert not mx.array_equal(before[path], after[path])


def test_faces_read_apart_report_their_entropies(carried):
    config = make_config(carried, "faces")
    config.lattice.readout.faces = "separate"
    final = run(config)["final"]
    assert 0.0 <= final["flow_face_choice"] <= final["flow_face_entropy"] <= 1.0
    assert final["flow_sideways_cells"] == pytest.approx(2.5 * final["flow_sideways"])


def test_a_mask_hides_its_share_of_cells_and_no_others_change():
    surface = mx.random.normal((8, 20, 20)) + 10.0
    hidden = hide_cells(surface, 0.25, mx.random.key(1))
    is_hidden = hidden == 0
    assert is_hidden.astype(mx.float32).mean().item() == pytest.approx(0.25, abs=0.03)
    assert mx.array_equal(mx.where(is_hidden, surface, hidden), surface)


def write_low_rank_vectors(folder):
    """Unit vectors of rank 4 in 24 numbers as files; returns the held-out ones."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(640, 4)) @ rng.normal(size=(4, 24))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    np.save(folder / "train.npy", rows[:512])
    np.save(folder / "val.npy", rows[512:])
    return rows[512:]


def test_what_is_trained_with_a_mask_mends_more_of_what_is_hidden(tmp_path):
    """Vectors of rank 4 in 24 numbers: the hidden cells follow from the others."""
    held_out = write_low_rank_vectors(tmp_path)
    mended = {}
    for share in (0.0, 0.5):
        config = make_config(tmp_path, f"run-{share}", train="all", max_steps=60)
        config.data.pairs, config.lattice.ends.kind = False, "linear"
        config.objectives.flow.mask = share
        final = run(config)["final"]
        assert ("masked_cosine" in final) == (share > 0)
        model = load(config.run.dir).model.lattice
        goals = mx.array(held_out)
        surface = hide_cells(model.mapper(goals), 0.5, mx.random.key(3))
        found = np.array(model.from_surface(surface).vector)
        mended[share] = float(np.mean(cosine_rows(found, held_out)))
    assert mended[0.5] > mended[0.0] + 0.01
    assert final["masked_cosine"] == pytest.approx(mended[0.5], abs=0.05)


def test_pairs_of_vectors_are_split_swapped_and_scaled(carried):
    """A file holds source and target; the trainer wants the target first."""
    config = make_config(carried)
    with RunDisplay() as display:
        data = load_run_data(config, build_objectives(config), None, display)
    assert data.dimension == 24
    source, target = np.split(np.load(carried / "train.npy")[7], 2)
    wanted = np.concatenate([target / np.linalg.norm(target), source])
    assert np.allclose(data.train_targets[7], wanted, atol=1e-6)


def test_pairs_of_vectors_need_an_even_width(carried, tmp_path):
    config = make_config(carried)
    np.save(tmp_path / "odd.npy", np.ones((40, 7), np.float32))
    config.data.train = [str(tmp_path / "odd.npy")]
    with pytest.raises(InputError, match="an even number of columns, got 7"):
        run(config)


def test_flows_alone_are_refused_without_a_lattice():
    config = Config(trainer=TrainerConfig(train="flow"))
    with pytest.raises(InputError, match="trainer.train must be a choice whose parts"):
        build_objectives(config)


def test_what_is_trained_with_noise_sharpens_more(tmp_path):
    """Vectors of rank 4 in 24 numbers: most of a random vector is outside of them.

    What is inside cannot be told from a vector, so the nearest one mostly stays.
    """
    held_out = write_low_rank_vectors(tmp_path)
    noisy = np.array(add_noise(mx.array(held_out), 0.8, mx.random.key(3)))
    sharpened = {}
    for length in (0.0, 0.8):
        config = make_config(tmp_path, f"run-{length}", train="all", max_steps=60)
        config.data.pairs, config.lattice.ends.kind = False, "linear"
        config.objectives.flow.noise = length
        final = run(config)["final"]
        assert ("sharpened_cosine" in final) == (length > 0)
        found = load(config.run.dir).transform(noisy)
        sharpened[length] = float(np.mean(cosine_rows(found, held_out)))
    before = float(np.mean(cosine_rows(noisy, held_out)))
    assert sharpened[0.8] > max(sharpened[0.0], before) + 0.05
    assert final["sharpened_cosine"] == pytest.approx(sharpened[0.8], abs=0.05)
    assert final["sharpened_p_at_1"] == pytest.approx(final["noisy_p_at_1"], abs=0.1)

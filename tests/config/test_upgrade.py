"""Run folders of the first version are still read."""

import pytest

from energyflow_mlx.config import Config, LatticeConfig, config_from_json
from energyflow_mlx.config.upgrade import upgrade
from energyflow_mlx.errors import InputError

# As the first version wrote it, shortened to what has changed.
FIRST = {
    "encoder": {"family": "tcn", "dim": 16, "hidden": 24},
    "decoder": {"dim": 16, "hidden": 24, "conditioning": "additive"},
    "loss": {
        **{"cosine": 2.0, "mse": 50.0, "contrastive": 0.5, "temperature": 0.1},
        **{"label_smoothing": 0.1, "student_ce": 0.2, "latent_noise": 0.3},
        **{"text": 0.4, "surface": 0.5, "candidates": 64},
    },
    "optimizer": {
        **{"lr": 3e-3, "decoder_lr": 2e-3, "min_lr": 1e-6, "lazy_rows": False},
    },
    "trainer": {"ratio": 0.25, "epochs": 3},
    "lattice": None,
    "name": "ab",
    "task": "ab",
}


def test_two_objectives_get_their_shares_rates_and_weights():
    config = config_from_json(FIRST)
    first, second = config.objectives.distillation, config.objectives.reconstruction
    assert first.share / second.share == pytest.approx(0.25 / 0.75)
    assert (first.lr, second.lr) == (3e-3, 2e-3)
    assert (first.cosine, first.mse, first.contrastive) == (2.0, 50.0, 0.5)
    assert (second.label_smoothing, second.student_ce) == (0.1, 0.2)
    assert second.latent_noise == 0.3
    assert (config.token_rows.lazy, config.token_rows.candidates) == (False, 64)
    assert config.objectives.flow is None
    assert config.decoder.conditioning == "additive"
    assert config.trainer.epochs == 3 and config.optimizer.min_lr == 1e-6


@pytest.mark.parametrize(("ratio", "left"), [(1.0, "distillation"), (0.0, None)])
def test_one_sided_runs_have_one_objective(ratio, left):
    config = config_from_json(FIRST | {"trainer": {"ratio": ratio}})
    chosen = config.objectives
    assert (chosen.distillation is not None) == (left == "distillation")
    assert (chosen.reconstruction is not None) == (left is None)


def test_settings_of_a_lattice_find_their_groups():
    flat = {"width": 8, "height": 6, "spawn_slots": 3, "exploration_noise": 0.1}
    flat |= {"checkpoint_steps": True, "convergence_threshold": 0.9}
    values = FIRST | {"task": "flow_text", "lattice": flat}
    config = config_from_json(values)
    assert isinstance(config.lattice, LatticeConfig)
    assert (config.lattice.cube.width, config.lattice.cube.height) == (8, 6)
    assert config.lattice.spare_slots == 3
    assert config.lattice.noise.sigma == 0.1
    assert config.lattice.adjoint.way == "stepwise"
    own = config.objectives.flow_text
    assert (own.text, own.surface) == (0.4, 0.5)


@pytest.mark.parametrize("slots", [0, 3, 16, 400])
def test_slots_that_the_second_version_counted_are_as_many(slots):
    lattice = {"cube": {"width": 28, "height": 28}, "spawn": {"slots": slots}}
    read = config_from_json({"version": 2, "lattice": lattice}).lattice
    assert isinstance(read, LatticeConfig)
    assert read.spare_slots == slots
    assert config_from_json(Config(lattice=read).to_json()).lattice == read


@pytest.mark.parametrize(
    ("lattice", "message"),
    [
        ({"spawn": {"slots": -1}}, "lattice.spawn.slots must be >= 0"),
        ({"spawn": {"slots": "8"}}, "lattice.spawn.slots must be a whole number"),
        ({"spawn": {"slots": 8}, "cube": {"width": 0}}, "width must be >= 2"),
    ],
)
def test_settings_of_the_second_version_that_are_damaged_are_refused(lattice, message):
    with pytest.raises(InputError, match=message):
        config_from_json({"version": 2, "lattice": lattice})


def test_settings_of_today_come_back_as_they_are():
    values = Config().to_json()
    assert upgrade(values) == {k: v for k, v in values.items() if k != "version"}

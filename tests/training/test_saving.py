"""Checkpoints by the clock: when, at what cost, and that they change no number."""

import numpy as np
import pytest

from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.training import saving
from energyflow_mlx.training.saving import SaveClock
from tests.training.small import make_trainer
from tests.training.test_parallel import curve, tiny_config, tiny_data, train_alone

OFTEN = {"trainer.save_minutes": 1e-9, "trainer.validate_every": 5}
SELDOM = {"trainer.save_minutes": 0, "trainer.validate_every": 5}


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


def test_it_is_due_so_many_minutes_after_the_last_checkpoint():
    clock = Clock()
    saves = SaveClock(10, clock)
    clock.now += 599.9
    assert not saves.is_due
    clock.now += 0.2
    assert saves.is_due
    with saves.saving():
        clock.now += 1.0
    assert not saves.is_due
    clock.now += 599.0
    assert not saves.is_due
    clock.now += 1.1
    assert saves.is_due


def test_a_dear_checkpoint_makes_the_next_one_wait_fifty_times_as_long():
    clock = Clock()
    saves = SaveClock(1, clock)
    with saves.saving():
        clock.now += 30.0
    clock.now += 1499.0
    assert not saves.is_due
    clock.now += 1.5
    assert saves.is_due


def test_zero_minutes_never_ask():
    clock = Clock()
    saves = SaveClock(0, clock)
    clock.now += 1e9
    assert not saves.is_due


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_alone(folder, SELDOM, {"trainer.log_every": 4})


def weights(folder):
    return {k: np.array(a) for k, a in RunFolder(folder).latest().arrays.items()}


@pytest.mark.parametrize("end", [1, 3, 5])
def test_a_run_saved_at_every_update_and_cut_off_is_the_same(
    end, whole, tmp_path, monkeypatch
):
    """Its records too: the first one after it goes on covers its whole interval."""
    monkeypatch.setattr(saving, "MOST_OF_THE_TIME", 1e9)
    folder, _ = whole
    changes = OFTEN | {"trainer.log_every": 4, "trainer.keep": 9}
    trainer = make_trainer(tiny_config(changes), tiny_data(), tmp_path)
    saved = trainer.save

    def save(*arguments):
        saved(*arguments)
        if trainer.progress.step == end:
            raise KeyboardInterrupt

    trainer.save = save
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert RunFolder(tmp_path).steps() == list(range(1, end + 1))
    train_alone(tmp_path, changes)
    assert curve(tmp_path) == curve(folder)
    ours, theirs = weights(tmp_path), weights(folder)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(ours[name], theirs[name]), name


def test_a_run_with_context_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    changes = {"encoder.causal": False, "encoder.context": True}
    whole = train_alone(tmp_path / "whole", changes)
    state = whole.stepper.state
    assert float(abs(state.parameters["encoder.contexts.0.weight"]).max()) > 0
    folder, name = tmp_path / "resumed", "checkpoints/step_00000004"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / name).rename(folder / name)
    one, two = state.arrays(), train_alone(folder, changes).stepper.state.arrays()
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[path], two[path]) for path in one)

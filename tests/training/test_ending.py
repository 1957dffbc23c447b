"""Where an interrupted run ends, and what is saved then."""

import os
import signal

import pytest

from energyflow_mlx.errors import Interrupted
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from tests.training.small import make_trainer
from tests.training.test_parallel import tiny_config, tiny_data

NUMBERS = [signal.SIGTERM, signal.SIGHUP]
WITHOUT_END = {"trainer.max_steps": 40, "trainer.save_every": 3}


def interrupted_at(method, step, number, folder, monkeypatch, **changes):
    """A trainer that got a signal inside a method of its folder or its own."""
    config = tiny_config(WITHOUT_END | {"trainer.validate_every": 50}, changes)
    trainer = make_trainer(config, tiny_data(), folder)
    owner = RunFolder if method == "save" else type(trainer)
    original = getattr(owner, method)

    def patched(self, *arguments, **keywords):
        if trainer.progress.step == step:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(owner, method, patched)
    with pytest.raises(Interrupted) as ended:
        trainer.run()
    assert ended.value.number == number
    return trainer


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_during_a_save_completes_it_and_saves_no_second_time(
    number, tmp_path, monkeypatch
):
    trainer = interrupted_at("save", 6, number, tmp_path, monkeypatch)
    assert trainer.progress.step == 6
    assert RunFolder(tmp_path).steps() == [3, 6]


def test_a_signal_during_a_validation_ends_after_it(tmp_path, monkeypatch):
    trainer = interrupted_at(
        "measure",
        2,
        signal.SIGTERM,
        tmp_path,
        monkeypatch,
        **{"trainer.validate_every": 2},
    )
    assert trainer.progress.step == 2 and RunFolder(tmp_path).steps() == [2]
    kinds = [r["kind"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert kinds.count("validation") == 1


def test_a_signal_before_the_first_update_begins_none(tmp_path, monkeypatch):
    trainer = interrupted_at("_open", 0, signal.SIGTERM, tmp_path, monkeypatch)
    assert trainer.progress.step == 0 and RunFolder(tmp_path).steps() == []


def test_a_run_that_was_killed_when_its_patience_was_over_trains_no_more(
    tmp_path, monkeypatch
):
    """Between its last checkpoint and its summary."""
    changes = {"trainer.patience": 1, "trainer.min_delta": 1e9}
    config = tiny_config(changes)
    summary = make_trainer(config, tiny_data(), tmp_path).run()
    assert (summary["status"], summary["steps"]) == ("stopped early", 4)
    again = make_trainer(tiny_config(changes), tiny_data(), tmp_path).run()
    assert (again["status"], again["steps"]) == ("stopped early", 4)

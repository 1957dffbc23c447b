"""The log of a run that is killed before any of its file operations, or damaged."""

import json
import logging
import os
import random
import shutil

import numpy as np
import pytest

from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.training import saving
from tests.training.small import make_trainer
from tests.training.test_parallel import curve, tiny_config, tiny_data

SMALL = {
    "trainer.max_steps": 3,
    "trainer.validate_every": 2,
    "trainer.save_minutes": 1e-9,
    "trainer.follow_samples": 2,
}
OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "truncate")


class Killed(BaseException):
    """A process that is gone: nothing catches it, no clean-up happens."""


class Disk:
    """Counts file operations; from the last one on every one fails as if never tried.

    Args:
        last: How many happen.
        patch: pytest's, for the time of one run.
    """

    def __init__(self, last, patch):
        self.count, self._last = 0, last
        for name in OPERATIONS:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(MetricsLog, "write", self._counted(MetricsLog.write))
        patch.setattr(shutil, "rmtree", self._counted(shutil.rmtree))

    def _counted(self, function):
        def counted(*arguments, **keywords):
            self.count += 1
            if self.count > self._last:
                raise Killed
            return function(*arguments, **keywords)

        return counted


@pytest.fixture(autouse=True, scope="module")
def saves_by_the_clock():
    """Every update, whatever a checkpoint costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "MOST_OF_THE_TIME", 1e9)
        yield


def trainer_in(folder):
    trainer = make_trainer(tiny_config(SMALL), tiny_data(), folder)
    for objective in trainer.objectives.values():
        objective.measured_at_start = True
    return trainer


def run_on(folder, last, monkeypatch):
    """Train until so many file operations are done; returns how many there were."""
    trainer = trainer_in(folder)
    with monkeypatch.context() as patch:
        disk = Disk(last, patch)
        try:
            trainer.run()
        except Killed:
            pass
    return disk.count


def samples(folder):
    return [line for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, and its number of file operations."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        return folder, run_on(folder, 10**9, patch)


def check_same(folder, other):
    assert curve(folder) == curve(other)
    assert samples(folder) == samples(other)
    ours, theirs = (RunFolder(f).latest().arrays for f in (folder, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(np.array(ours[name]), np.array(theirs[name])), name


def kill_before(numbers, whole, tmp_path, monkeypatch):
    for number in numbers:
        folder = tmp_path / str(number)
        assert run_on(folder, number, monkeypatch) > number
        trainer_in(folder).run()
        check_same(folder, whole)


def test_a_kill_before_a_file_operation_neither_doubles_nor_drops_a_record(
    whole, tmp_path, monkeypatch
):
    folder, count = whole
    chosen = random.Random(1).sample(range(count), 8)
    kill_before(chosen, folder, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_kill_before_every_file_operation_neither_doubles_nor_drops_a_record(
    whole, tmp_path, monkeypatch
):
    folder, count = whole
    assert count > 60
    kill_before(range(count), folder, tmp_path, monkeypatch)


@pytest.mark.parametrize("line", [1, 4])
def test_a_damaged_line_is_named_once_and_does_not_stop_a_resume(
    line, whole, tmp_path, caplog
):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {**json.loads(lines[line - 1])}
    lines[line - 1] = lines[line - 1].replace(b"e", b"m", 1)
    path.write_bytes(b"".join(lines))
    trainer = make_trainer(
        tiny_config(SMALL, {"trainer.max_steps": 4}), tiny_data(), folder
    )
    with caplog.at_level(logging.WARNING):
        trainer.run()
    said = [m for m in caplog.messages if m.startswith("[metrics]")]
    assert len(said) == 1 and f"line {line} is damaged and left out" in said[0]
    after = [json.loads(x) for x in path.read_bytes().splitlines()]
    assert kept["digest"] not in {record["digest"] for record in after}
    assert after[-1]["step"] == 4


def test_a_log_that_was_cut_at_its_end_is_noticed_when_the_run_goes_on(
    whole, tmp_path, caplog
):
    """Whole lines have gone: nothing in the file itself says so."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    config = tiny_config(SMALL, {"trainer.max_steps": 4})
    make_trainer(config, tiny_data(), folder).run()
    (said,) = [m for m in caplog.messages if m.startswith("[metrics]")]
    assert "lines up to step 3 are missing at its end" in said


def test_a_log_that_was_cut_at_its_end_is_noticed_when_it_is_read(
    whole, tmp_path, caplog
):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole[0], folder.path)
    records = folder.read_log()
    assert not caplog.records
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        caplog.clear()
        folder.metrics.write_bytes(b"".join(lines[:count]))
        assert folder.read_log() == records[:count]
        assert "missing at its end" in caplog.text, count

"""Each tracker holds what ``metrics.jsonl`` holds, whatever happened in between."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx.config import Config
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runs.trackers import TrackedLog, TrackedRun, require_trackers
from energyflow_mlx.runs.trackers.csv_file import CsvTracker
from energyflow_mlx.runtime.signed_json import read_signed
from tests.commands import CHECKOUT
from tests.runs.trackers.readers import (
    READERS,
    mlflow_runs,
    points,
    whole_wandb_file,
)

pytestmark = pytest.mark.filterwarnings("default")  # of the trackers' own packages

NAMES = list(READERS)
SETTINGS = {"name": "mine", "optimizer.lr": 0.25, "data.train": ["a.txt"], "x": None}


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    """Every tracker keeps its things in this test's folder; none asks the network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


@pytest.fixture(params=NAMES)
def name(request):
    need(request.param)
    return request.param


def is_there(name):
    return importlib.util.find_spec(name) is not None


def need(name):
    if name != "csv" and not is_there(name):
        pytest.skip(f"needs the extra {name}; it is not installed")


def open_log(folder, *names):
    run = TrackedRun(folder / "trackers", "mine", "tests", SETTINGS)
    return TrackedLog(folder / "metrics.jsonl", folder / "trackers.json", run, names)


def records_of(step):
    """What a run logs at an update; a validation at every third."""
    common = {"kind": "train", "step": step, "loss": 1 / (step + 1)}
    yield common | {"lr": 0.5} if step % 2 else common
    if step % 3 == 0:
        yield {
            "kind": "validation",
            "step": step,
            "best": step == 3,
            "cosine": 0.1 * step,
        }


def write(log, steps):
    for step in steps:
        for record in records_of(step):
            log.write(record)


def check(name, folder):
    """The tracker holds every record once, and nothing else."""
    expected = points(read_metrics(folder / "metrics.jsonl"))
    found = READERS[name](folder / "trackers")
    assert found.keys() == expected.keys()
    for key, values in found.items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-7, err_msg=str(key))


def test_a_run_at_one_go_is_read_back_as_it_was_logged(name, tmp_path):
    with open_log(tmp_path, name) as log:
        log.truncate_after(0)
        write(log, range(1, 8))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 9
    check(name, tmp_path)


def test_values_that_are_not_finite_arrive(name, tmp_path):
    with open_log(tmp_path, name) as log:
        log.truncate_after(0)
        log.write({"kind": "train", "step": 1, "a": np.float32("nan"), "b": -np.inf})
    check(name, tmp_path)


KILLED = """
import sys
from pathlib import Path
from tests.runs.trackers.test_trackers import open_log, write
with open_log(Path(sys.argv[1]), sys.argv[2]) as log:
    log.truncate_after(int(sys.argv[3]))
    write(log, range(int(sys.argv[3]) + 1, 6))
    print("written", flush=True)
    sys.stdin.read()
"""


def killed_session(folder, name, after):
    """Log updates up to 5 in a process of its own that is killed with SIGKILL then."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), name, str(after)],
        cwd=CHECKOUT,
        # Else a child shares the process in which this one's wandb writes.
        env={k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        while (line := process.stdout.readline()) and line != "written\n":
            pass
        assert line == "written\n"
        os.kill(process.pid, signal.SIGKILL)


def test_after_a_kill_no_record_is_there_twice_and_none_is_missing(name, tmp_path):
    """The last checkpoint was of update 3: what came after it is logged again."""
    killed_session(tmp_path, name, 0)
    killed_session(tmp_path, name, 3)
    with open_log(tmp_path, name) as log:
        log.truncate_after(3)
        write(log, range(4, 9))
    check(name, tmp_path)
    if name == "mlflow":
        from mlflow import MlflowClient

        assert len(mlflow_runs(MlflowClient())) == 1


def test_a_tracker_that_comes_later_gets_the_earlier_records(name, tmp_path):
    with open_log(tmp_path) as log:
        log.truncate_after(0)
        write(log, range(1, 5))
    with open_log(tmp_path, name) as log:
        log.truncate_after(4)
        write(log, range(5, 7))
    check(name, tmp_path)


def test_a_tracker_that_was_left_out_in_between_misses_nothing(name, tmp_path):
    for names, first in (([name], 1), ([], 3), ([name], 5)):
        with open_log(tmp_path, *names) as log:
            log.truncate_after(first - 1)
            write(log, range(first, first + 2))
    check(name, tmp_path)


def break_csv(folder, _log):
    (folder / "trackers" / "metrics.csv").unlink()
    (folder / "trackers" / "metrics.csv").mkdir()


def break_tensorboard(_folder, log):
    """Its file is on a disk that is full."""
    tracker = log._trackers["tensorboard"]
    os.dup2(os.open("/dev/full", os.O_WRONLY), tracker._file.fileno())


BREAKERS = {"csv": break_csv, "tensorboard": break_tensorboard}


@pytest.mark.parametrize("name", BREAKERS)
def test_a_tracker_that_fails_is_named_and_the_run_goes_on(name, tmp_path, caplog):
    need(name)
    others = [n for n in BREAKERS if n != name and (n == "csv" or is_there(n))]
    with caplog.at_level(logging.WARNING), open_log(tmp_path, name, *others) as log:
        log.truncate_after(0)
        write(log, [1])
        BREAKERS[name](tmp_path, log)
        write(log, range(2, 4))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2, messages
    assert f"[trackers] {name} failed at record 1: " in messages[0]
    assert "goes on without it" in messages[0]
    assert f"{name} is not whole" in messages[1] and "metrics.jsonl" in messages[1]
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 3]
    for other in others:
        check(other, tmp_path)
    assert list(read_signed(tmp_path / "trackers.json")) == others
    if name == "csv":
        (tmp_path / "trackers" / "metrics.csv").rmdir()
    with open_log(tmp_path, name, *others) as log:  # mended: it is filled again
        log.truncate_after(3)
        write(log, [4])
    for each in (name, *others):
        check(each, tmp_path)


def test_a_tracker_that_cannot_start_is_named_and_the_run_goes_on(tmp_path, caplog):
    (tmp_path / "trackers").write_text("in the way")
    with caplog.at_level(logging.WARNING), open_log(tmp_path, "csv") as log:
        log.truncate_after(0)
        write(log, [1])
    assert "csv failed at record 0" in caplog.messages[0]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


# Settings, names, ends ---------------------------------------------------------------


def one_session(folder, name, error=None):
    log = open_log(folder, name)
    with log:
        log.truncate_after(0)
        write(log, [1])
        if error is not None:
            raise error


def test_tensorboard_shows_the_settings(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    one_session(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    events.Reload()
    text = events.Tensors("mine/config")[0].tensor_proto.string_val[0].decode()
    assert "| optimizer.lr | `0.25` |" in text and '`["a.txt"]`' in text
    plugin = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data
    started = metadata.parse_session_start_info_plugin_data(plugin.content)
    assert started.hparams["optimizer.lr"].number_value == 0.25


def test_wandb_gets_settings_name_and_project(tmp_path):
    need("wandb")
    one_session(tmp_path, "wandb")
    records = whole_wandb_file(tmp_path / "trackers")
    runs = [record.run for record in records if record.HasField("run")]
    settings = {u.key: json.loads(u.value_json) for u in runs[0].config.update}
    assert (runs[0].display_name, runs[0].project) == ("mine", "tests")
    assert settings.items() >= SETTINGS.items()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (ValueError(), "FAILED")],
)
def test_mlflow_gets_settings_name_and_the_end(error, status, tmp_path):
    need("mlflow")
    from mlflow import MlflowClient

    if error is None:
        one_session(tmp_path, "mlflow")
    else:
        with pytest.raises(type(error)):
            one_session(tmp_path, "mlflow", error)
    (run,) = mlflow_runs(MlflowClient())
    assert (run.info.run_name, run.info.status) == ("mine", status)
    assert run.data.params["optimizer.lr"] == "0.25"
    assert MlflowClient().get_experiment_by_name("tests") is not None


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_missing_package_is_refused_with_what_to_type(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"pip install 'energyflow-mlx\[{name}\]'"):
        require_trackers(["csv", name])


def test_the_state_says_that_a_tracker_goes_on_under_its_id(tmp_path, monkeypatch):
    """Which of the two ways it is opened is no matter of what it holds afterwards."""
    opened = []
    monkeypatch.setattr(CsvTracker, "begin", lambda *_: opened.append("begin") or "x7")
    monkeypatch.setattr(CsvTracker, "resume", lambda _, *a: opened.append(a) or a[0])
    for step in (0, 3):
        with open_log(tmp_path, "csv") as log:
            log.truncate_after(step)
    assert opened == ["begin", ("x7", 3, [])]


def test_the_log_of_a_run_folder_has_the_trackers_of_its_configuration(tmp_path):
    with RunFolder(tmp_path).open_metrics(Config(trackers=["csv"])) as log:
        log.truncate_after(0)
        write(log, [1])
    check("csv", tmp_path)

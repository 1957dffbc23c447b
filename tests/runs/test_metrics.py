"""The metrics log: valid JSON on every line, whatever happens to the run."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.metrics import MetricsLog, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def test_round_trip_of_every_scalar_kind(path):
    record = {
        "step": 3,
        "objective": "distillation",
        "loss": 0.1 + 0.2,
        "lr": np.float32(0.5),
        "samples": np.int64(7),
        "is_best": np.bool_(True),
        "note": "größer\nzweite Zeile",
        "cosine": None,
    }
    with MetricsLog(path) as log:
        log.write(record)
        log.write({"step": 4})
    first, second = read_metrics(path)
    assert first == record
    assert isinstance(first["lr"], float) and isinstance(first["samples"], int)
    assert first["is_best"] is True
    assert second == {"step": 4}
    assert path.read_bytes().count(b"\n") == 2


def test_records_are_on_disk_as_soon_as_they_are_written(path):
    with MetricsLog(path) as log:
        log.write({"step": 1})
        assert read_metrics(path) == [{"step": 1}]
        log.flush_to_disk()


def test_non_finite_values_are_valid_json_and_come_back(path):
    values = {"a": math.nan, "b": math.inf, "c": np.float32(-np.inf), "d": 1.0}
    with MetricsLog(path) as log:
        log.write(values)
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row["a"] is None
    assert row["non_finite"] == {"a": "nan", "b": "inf", "c": "-inf"}
    (back,) = read_metrics(path)
    assert back.keys() == values.keys()
    assert math.isnan(back["a"]) and back["b"] == math.inf and back["c"] == -math.inf


@pytest.mark.parametrize("value", [mx.array(1.0), [1.0], {"a": 1}, np.ones(2)])
def test_only_scalars_are_logged_never_a_lazy_array_r11(path, value):
    with MetricsLog(path) as log, pytest.raises(TypeError, match="'loss' must be a"):
        log.write({"loss": value})
    assert path.read_text() == ""


def test_reserved_and_non_string_keys_are_refused(path):
    with MetricsLog(path) as log:
        for key in ("non_finite", 3):
            with pytest.raises(ValueError, match="keys must be strings"):
                log.write({key: 1})


def test_a_torn_last_line_is_skipped_and_then_cut(path, caplog):
    with MetricsLog(path) as log:
        log.write({"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    with caplog.at_level(logging.WARNING):
        assert read_metrics(path) == [{"step": 1}]
    assert "torn last line" in caplog.text
    with MetricsLog(path) as log:
        log.write({"step": 3})
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]


def test_a_complete_but_unterminated_line_counts_as_torn(path):
    """Its number might have lost digits: 12 of 123 is valid JSON too."""
    path.parent.mkdir()
    path.write_text('{"step": 1}\n12')
    assert read_metrics(path) == [{"step": 1}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "", "\x00\x00"])
def test_damage_in_the_middle_names_the_line(path, line):
    path.parent.mkdir()
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 must be a JSON"):
        read_metrics(path)


def test_a_missing_file_is_an_input_error(path):
    with pytest.raises(InputError, match="must be a metrics file"):
        read_metrics(path)


def test_truncate_after_a_step_then_appending(path):
    with MetricsLog(path) as log:
        log.write({"event": "start"})
        for step in range(1, 6):
            log.write({"step": step, "loss": math.nan if step == 2 else 1.0})
        log.truncate_after(3)
        log.write({"step": 4, "loss": 0.5})
    records = read_metrics(path)
    assert [r.get("step") for r in records] == [None, 1, 2, 3, 4]
    assert math.isnan(records[2]["loss"]) and records[-1]["loss"] == 0.5
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_appending_to_an_existing_log_keeps_it(path):
    for step in (1, 2):
        with MetricsLog(path) as log:
            log.write({"step": step})
    assert [r["step"] for r in read_metrics(path)] == [1, 2]


def test_kill_9_leaves_every_complete_record(path, checkout):
    code = """
import sys
from energyflow_mlx.runs.metrics import MetricsLog
log, step = MetricsLog(sys.argv[1]), 0
while True:
    step += 1
    log.write({"step": step, "text": "x" * 5000})
    print(step, flush=True)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.PIPE, text=True
    ) as writer:
        writer.stdout.readline()
        time.sleep(0.02)
        os.kill(writer.pid, signal.SIGKILL)
        lines = [line for line in writer.stdout if line.endswith("\n")]
    reported = int(lines[-1]) if lines else 1
    steps = [r["step"] for r in read_metrics(path)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= reported

"""The metrics log: valid JSON on every line, whatever happens to the run."""

import json
import logging
import math
import os
import random
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
        for key in ("non_finite", "digest", 3):
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
def test_a_damaged_line_is_named_and_left_out(path, line, caplog):
    path.parent.mkdir()
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    (said,) = caplog.messages
    assert said.endswith("metrics.jsonl: line 2 is damaged and left out")


def write_steps(path, count):
    with MetricsLog(path) as log:
        for step in range(1, count + 1):
            log.write({"kind": "train", "step": step, "loss": 1 / step, "t": "größer"})
    return read_metrics(path)


def test_every_flipped_bit_is_seen_and_changes_no_other_record(path, caplog):
    """Each byte of a log, one bit of it: what comes back is right, or named."""
    whole = write_steps(path, 4)
    content = path.read_bytes()
    draw = random.Random(0)
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        caplog.clear()
        found = read_metrics(path)
        assert len(caplog.messages) == 1, (at, broken[at])
        # In the key of the first digest a flip makes one more field, of text.
        known = [{k: r[k] for k in whole[0]} for r in found]
        assert all(record in whole for record in known), at
        assert len(found) >= 2, at


def test_a_missing_line_is_seen_wherever_it_stood(path, caplog):
    write_steps(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    for gone in range(3):
        path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        caplog.clear()
        assert len(read_metrics(path)) == 3
        assert f"before line {gone + 1} there are lines missing" in caplog.text


def test_lines_that_are_missing_at_the_end_are_seen_when_a_run_goes_on(path, caplog):
    with MetricsLog(path) as log:
        for step in (1, 2, 3):
            log.write({"step": step})
            if step == 2:
                digest = log.digest
    with MetricsLog(path) as log:
        log.truncate_after(2, digest)
    assert caplog.messages == []
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with MetricsLog(path) as log:
        log.truncate_after(2, digest)
    assert "lines up to step 2 are missing at its end" in caplog.text


def test_a_log_without_digests_is_read_and_gets_them_when_a_run_goes_on(path, caplog):
    path.parent.mkdir()
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    with MetricsLog(path) as log:
        log.write({"step": 3, "loss": 0.125})
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]
    with MetricsLog(path) as log:
        log.truncate_after(2)
        log.write({"step": 3, "loss": 0.125})
    assert [r["loss"] for r in read_metrics(path)] == [0.5, 0.25, 0.125]
    assert path.read_text().count('"digest": "') == 3
    assert caplog.messages == []


def test_a_damaged_line_does_not_stay_when_a_run_goes_on(path, caplog):
    write_steps(path, 4)
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step": 7'))
    with MetricsLog(path) as log:
        log.truncate_after(3)
    assert "line 2 is damaged" in caplog.text
    caplog.clear()
    assert [r["step"] for r in read_metrics(path)] == [1, 3]
    assert caplog.messages == []


def test_a_missing_file_is_an_input_error(path):
    with pytest.raises(InputError, match=r"\[metrics\] .* no such file"):
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


def test_appending_to_an_existing_log_keeps_it(path, caplog):
    for step in (1, 2):
        with MetricsLog(path) as log:
            log.write({"step": step})
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    assert caplog.messages == []


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


def test_a_first_line_whose_digest_lost_its_name_is_damaged(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"step": 1})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"digest"', b'"digesu"'))
    assert read_metrics(path) == []
    with MetricsLog(path.with_name("two.jsonl")) as log:
        log.write({"step": 1})
        log.write({"step": 2})
    two = path.with_name("two.jsonl")
    two.write_bytes(two.read_bytes().replace(b'"digest"', b'"digesu"', 1))
    assert read_metrics(two) == [{"step": 2}]
    assert len(caplog.records) == 2

"""Long runs: memory stays as it is, and half formats learn what float32 does."""

import json
import math
import os
import subprocess
import sys

import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics

# What the run below prints: resident bytes when the update of the words was reported.
RESIDENT = """
import os, pathlib, sys
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.train import main

write = MetricsLog.write
pages = pathlib.Path("/proc/self/statm")

def written(log, record):
    write(log, record)
    if record.get("kind") == "timing":
        resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        sys.stderr.write(f"{record['step']} {resident}\\n")

MetricsLog.write = written
main()
"""


def small(folder, dtype, updates):
    """Both objectives on sentences of many lengths."""
    config = Config(name="long")
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden, part.embedding_init = 24, 32, "normal"
    config.token_rows.candidates = 256
    config.data.captions, config.data.buckets, config.data.max_length = 600, [], 32
    config.trainer.micro_batch, config.trainer.max_steps = 16, updates
    config.trainer.log_every, config.trainer.validate_every = 20, 40
    config.trainer.follow_samples = config.trainer.decode_samples = 0
    config.precision.dtype, config.run.dir = dtype, str(folder / "run")
    return config


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_memory_of_the_loop_is_flat_over_200_updates(tmp_path, dtype):
    """Validations and checkpoints among them; every length has been met by the 40th."""
    summary = run(small(tmp_path, dtype, 200))
    rows = read_metrics(RunFolder(tmp_path / "run").metrics)
    numbers = [v for row in rows for v in row.values() if isinstance(v, float)]
    assert all(map(math.isfinite, numbers))
    peaks = [row["peak_bytes"] for row in rows if row["kind"] == "timing"]
    assert len(peaks) == 10 and min(peaks) > 0
    assert max(peaks[5:]) <= 1.02 * max(peaks[:5])
    traces = [row["traces"] for row in rows if row["kind"] == "timing"]
    assert traces[-1] == traces[4] == sum(summary["traces"].values())


def test_every_objective_compiles_an_update_for_each_length_alone(tmp_path):
    config = small(tmp_path, "float32", 40)
    traces = run(config)["traces"]
    assert set(traces) == {"distillation update", "reconstruction update"}
    assert max(traces.values()) <= config.data.most_buckets == 8


@pytest.mark.slow
def test_half_formats_are_within_0005_of_float32_after_500_updates(checkout, tmp_path):
    output = tmp_path / "precision.json"
    script = checkout / "benchmarks" / "bench_precision.py"
    words = [sys.executable, script, "--output", output]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["runs"]
    assert set(found) == {"ab", "flow"}
    for runs in found.values():
        exact = runs["float32"]["cosine"]
        for got in runs.values():
            assert got["is_finite"] and got["skipped"] <= 5
            assert got["cosine"] == pytest.approx(exact, abs=0.005)
        assert runs["float16"]["loss_scale"] >= 512


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_resident_memory_after_5000_updates_is_that_after_500(tmp_path, dtype):
    words = [
        *("+experiment=ab", "encoder.dim=64", "encoder.hidden=96", "decoder.dim=64"),
        *("decoder.hidden=96", "data.captions=4000", "token_rows.candidates=256"),
        *("trainer.micro_batch=16", "trainer.max_steps=5000", "trainer.log_every=500"),
        *("trainer.validate_every=250", "trainer.decode_samples=0"),
        *(f"precision.dtype={dtype}", f"run.dir={tmp_path / 'run'}"),
    ]
    command = [sys.executable, "-c", RESIDENT, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resident = dict(map(int, line.split()) for line in done.stderr.splitlines())
    assert resident[5000] <= 1.02 * resident[500], resident
    traces = json.loads((tmp_path / "run" / "summary.json").read_text())["traces"]
    assert max(traces.values()) <= 8, traces

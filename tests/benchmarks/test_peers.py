"""The comparison with PyTorch: what it refuses, writes, and takes in turns."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.peers.agreement import Disagreement, require_same
from benchmarks.peers.captions import ab_config
from benchmarks.peers.report import Report, table
from benchmarks.peers.settings import Settings, parse, public_words
from benchmarks.peers.turns import whole_run
from benchmarks.peers.worker import Worker, WorkerFailed
from tests.docs.pages import compose_config

FACTS = {
    "items": 256,
    "variant": "taps+default",
    "memory": {
        "ours": {"rss_bytes": 800 << 20, "array_bytes": 700 << 20},
        "twin": {"rss_bytes": 600 << 20},
    },
}


@pytest.mark.parametrize(
    "word", ["what=c", "batches=4", "batch=many", "batch=0", "device=tpu", "quick"]
)
def test_a_bad_word_is_refused_in_one_line(checkout, word):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.run", word],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: \[peers\] .*\n", done.stderr)


def test_its_main_job_is_the_experiment():
    """Written out there, since Hydra may be missing where it runs."""
    expected = compose_config("+experiment=ab", "precision=fp32", "run.dir=x").to_json()
    ours = ab_config(Settings()).to_json()
    del expected["run"], ours["run"]
    assert ours == expected


# -- agreement ------------------------------------------------------------------------


def write(folder, name, **changes):
    random = np.random.default_rng(0)
    arrays = {
        "gradient a": random.normal(size=(4, 3)),
        "gradient b": random.normal(size=5),
        "update a": random.normal(size=(4, 3)),
    }
    for key, change in changes.items():
        arrays[key.replace("_", " ")] = change(arrays[key.replace("_", " ")])
    np.savez(folder / name, **arrays)
    return folder / name


def compared(folder, losses=(1.0, 1.0), **changes):
    files = write(folder, "ours.npz", **changes), write(folder, "twin.npz")
    return require_same("a", losses, files, "float32")


def test_equal_sides_agree(tmp_path):
    assert compared(tmp_path) == {"loss": 0.0, "gradient": 0.0, "update": 0.0}


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("loss", {"losses": (1.001, 1.0)}),
        ("gradient of b", {"gradient_b": lambda g: g * 1.001}),
        ("gradient of b", {"gradient_b": lambda g: g * np.nan}),
        ("first update", {"update_a": lambda u: u * 1.1}),
    ],
)
def test_a_side_that_differs_is_named(tmp_path, what, changes):
    with pytest.raises(Disagreement, match=f"a: {what} must agree within"):
        compared(tmp_path, **changes)


def test_a_gradient_that_one_side_lacks_is_named(tmp_path):
    ours, twin = write(tmp_path, "ours.npz"), write(tmp_path, "twin.npz")
    np.savez(twin, **{"gradient a": np.ones(3)})
    with pytest.raises(Disagreement, match="only one side has gradient b, update a"):
        require_same("a", (1.0, 1.0), (ours, twin), "float32")


# -- report ---------------------------------------------------------------------------


def recorded(tmp_path, **changes):
    words = ["what=a,quality", f"lock={tmp_path}/lock", f"data={tmp_path}/my.txt"]
    settings = replace(parse(words), output=str(tmp_path), threads=2, **changes)
    report = Report(settings, words)
    report.about({"mlx": "0.32.4"}, {"torch": "2.13.0", "device": "NVIDIA H200"})
    report.add("a", [100, 110, 90], [120, 110, 135], FACTS)
    to_goal = {
        name: {"seconds": seconds, "updates": 300, "cosine": 0.951, "cosines": [0.951]}
        for name, seconds in (("ours", 80.0), ("twin", 100.0))
    }
    whole = {"to_goal": to_goal, "time_ratio": 1.25}
    report.add("quality", [50.0], [60.0], FACTS | whole)
    return report


def test_ratios_are_taken_round_by_round(tmp_path):
    recorded(tmp_path)
    record = json.loads((tmp_path / "peers_cpu_2_float32.json").read_text())
    assert record["cases"]["a"]["ratio"] == {"median": 1.2, "min": 1.0, "max": 1.5}
    assert record["cases"]["a"]["samples"]["ours_ms"] == [100, 110, 90]


def test_the_table_has_every_case_and_the_time_to_the_goal(tmp_path):
    text = table(recorded(tmp_path).record)
    assert re.search(
        r"a +100\.00 \[90\.00, 110\.00\], 2560/s .* 1\.20 \[1\.00, 1\.50\]", text
    )
    assert "to cosine 0.95: ours 80.0 s (300 updates), PyTorch 100.0 s (300), " in text
    assert text.endswith("ratio 1.25")


def test_a_plot_lies_beside_the_record_of_the_kind_of_machine(tmp_path):
    recorded(tmp_path, device="cpu").close()
    picture = tmp_path / "peers_cpu_2_float32.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    gpu = Settings(device="gpu", precision="bfloat16", output=str(tmp_path))
    report = Report(gpu, [])
    report.about({}, {"device": "NVIDIA H200"})
    assert report.path == tmp_path / "peers_nvidia_h200_bfloat16.json"


def test_a_record_names_no_places(tmp_path):
    assert public_words(["what=a", "lock=/x/y", "data=/x/my.txt", "output=/z"]) == [
        "what=a",
        "data=my.txt",
    ]
    assert str(tmp_path) not in json.dumps(recorded(tmp_path).record)


# -- turns ----------------------------------------------------------------------------


class Scripted:
    """A side that trains by a script."""

    def __init__(self, log, name, told):
        self.log, self.name, self.told = log, name, iter(told)

    def ask(self, what):
        self.log.append((self.name, what))
        return next(self.told, {"done": True}) if what == "train" else {}


def pauses(ms, cosines):
    return [
        {"step": 10 * n, "seconds": ms * 10 * n / 1e3, "cosine": cosine}
        for n, cosine in enumerate(cosines, start=1)
    ]


def test_a_whole_run_takes_turns_until_both_have_reached_the_goal():
    log = []
    ours = Scripted(log, "ours", pauses(20, [0.5, 0.96, 0.97]))
    twin = Scripted(log, "twin", pauses(10, [0.4, 0.9, 0.95]))
    found = whole_run(Settings(), "quality", (ours, twin))
    turns = [name for name, what in log if what == "train"]
    assert turns == ["twin", "ours", "ours", "twin", "twin"]
    assert found.facts["to_goal"]["ours"]["updates"] == 20
    assert found.facts["to_goal"]["twin"]["updates"] == 30
    assert found.facts["time_ratio"] == pytest.approx(0.3 / 0.4)
    assert found.samples == (pytest.approx([20, 20]), pytest.approx([10, 10]))


def test_the_first_slice_of_a_loop_warms_up():
    sides = [Scripted([], "side", pauses(20, [0.0] * 9)) for _ in range(2)]
    found = whole_run(Settings(rounds=3), "loop", tuple(sides))
    assert [len(samples) for samples in found.samples] == [3, 3]
    assert not found.facts


# -- processes ------------------------------------------------------------------------


def test_what_a_side_cannot_do_is_said_in_one_line(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    with Worker("benchmarks.peers.mlx_side", Settings()) as side:
        assert side.facts["backend"] == "cpu"
        with pytest.raises(WorkerFailed, match="mlx_side, prepare: FileNotFoundError"):
            side.ask("prepare", case="lattice", folder="no such folder")

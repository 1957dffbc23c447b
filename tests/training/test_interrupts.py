"""Signals at any moment of a training cost at most an update and spoil no file."""

import functools
import json
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import read_metrics
from tests.commands import CHECKOUT, run_command

WORDS = [
    *("+experiment=smoke", "data.captions=300", "data.buckets=[16,32]"),
    *("trainer.log_every=5", "trainer.validate_every=40", "trainer.decode_samples=0"),
]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS_OF_SIGNALS = ("interrupted", "terminated", "hung up")


def interrupted(words, number, delay, *, trained=False):
    """Start a training, send the signal after a while; its status and output.

    Args:
        words: Arguments of the command.
        number: The signal.
        delay: Seconds before it is sent.
        trained: Count them from the first update that is shown.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "energyflow_mlx.train", *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a shell Ctrl-C is ignored, and a child inherits that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    before = ""
    while trained and not before.rpartition("\n")[2].startswith("step"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        before += f"\n{line.rstrip()}"
    time.sleep(delay)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    return process.returncode, f"{before}\n{output}", errors


def check_ended(status, number, output, errors):
    """It ended as documented, and lost at most an update."""
    # Before its first line of our code Python ends the way the system does.
    assert status in (STATUS[number], -number), f"{status}\n{output}\n{errors}"
    said = re.search(r"interrupted at update (\d+); .* from update (\d+)", output)
    if said:
        assert int(said[1]) - int(said[2]) <= 1, output
    return int(said[2]) if said else None


def check_folder(folder):
    """Nothing in it is half-written; returns the newest update."""
    if not folder.exists():
        return 0
    assert not list(folder.rglob(".tmp-*"))
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    steps = checkpoint.steps(folder / "checkpoints")
    for step in steps:
        checkpoint.load(checkpoint.folder_of(folder / "checkpoints", step))
    if (folder / "metrics.jsonl").exists():
        read_metrics(folder / "metrics.jsonl")  # refuses a damaged line
    return max(steps, default=0)


def finish(words, folder, done):
    """The same command to an end two updates on: it resumes and finishes."""
    resumed = run_command("train", *words, f"trainer.max_steps={done + 2}")
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", done + 2)


def test_ctrl_c_sigterm_and_a_signal_at_the_start_lose_nothing(tmp_path):
    folder = tmp_path / "run"
    words = [*WORDS, f"run.dir={folder}", f"teacher.cache_dir={tmp_path / 'cache'}"]
    endless = [*words, "trainer.max_steps=100000"]
    done = 0
    for number, delay, trained in (
        (signal.SIGTERM, 1.2, False),
        (signal.SIGINT, 0.05, True),
        (signal.SIGTERM, 0.05, True),
        (signal.SIGHUP, 0.05, True),
    ):
        status, output, errors = interrupted(endless, number, delay, trained=trained)
        step = check_ended(status, number, output, errors)
        assert check_folder(folder) >= done
        if trained:
            assert status == STATUS[number]
            assert step == check_folder(folder) > done
            assert errors.splitlines()[-1] in WORDS_OF_SIGNALS
        done = check_folder(folder)
    finish(words, folder, done)


@pytest.mark.slow
def test_50_signals_at_random_moments_lose_nothing(tmp_path):
    """Each start resumes what the one before it left."""
    folder = tmp_path / "run"
    words = [*WORDS, f"run.dir={folder}", f"teacher.cache_dir={tmp_path / 'cache'}"]
    draw, done = random.Random(0), 0
    for _ in range(50):
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        outcome = interrupted(
            [*words, "trainer.max_steps=100000"], number, draw.uniform(0.0, 8.0)
        )
        status, output, errors = outcome
        step = check_ended(status, number, output, errors)
        newest = check_folder(folder)
        assert newest >= done and step in (None, newest)
        done = newest
    assert done > 0
    finish(words, folder, done)

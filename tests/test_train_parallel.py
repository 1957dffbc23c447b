"""The trainer's command in two processes: one run folder, one voice, one end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from tests.build.tiny import SENTENCES, run_words
from tests.commands import CHECKOUT
from tests.docs.pages import SNIPPETS, compose_config
from tests.processes import DO_NOT_COMPILE, finish, free_ports, start

LAUNCHER = Path(sys.executable).with_name("mlx.launch")
TRAIN = ["-m", "energyflow_mlx.train", "+experiment=ab"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return run_words(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def launched(words, tmp_path_factory):
    """A finished run of two processes, started as a user starts it."""
    folder = tmp_path_factory.mktemp("run")
    port = min(free_ports(2))
    launch = [LAUNCHER, "-n", "2", "--backend", "ring", "--starting-port", str(port)]
    command = [*launch, "--", sys.executable, *TRAIN, *words, f"run.dir={folder}/run"]
    done = subprocess.run(
        [*command, "trainer.max_steps=4"],
        cwd=CHECKOUT,
        input="\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return folder, done.stdout, done.stderr


def await_records(run, process):
    """Wait until a run has logged something."""
    path, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not path.exists() or not read_metrics(path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def test_one_process_writes_and_shows_the_run(launched):
    folder, output, errors = launched
    assert errors == ""
    names = {p.name for p in (folder / "run").iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoints", "summary.json", "tokenizer"),
        *("samples.jsonl", "lock"),
    }
    records = read_metrics(folder / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [2, 4]
    samples = read_metrics(folder / "run" / "samples.jsonl")
    assert len({(r["step"], r["sentence"]) for r in samples}) == len(samples) > 0
    assert output.count("step 4/4") == output.count("Held-out sentences") == 1
    assert output.count(", 2 processes\n") == 1
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["samples"] == 4 * 2 * 4 and summary["status"] == "finished"
    assert {"cosine", "ce", "bleu"} <= summary["final"].keys()


def test_a_finished_run_is_left_alone_by_all(launched, words, tmp_path):
    folder, _, _ = launched
    command = [*TRAIN, *words, f"run.dir={folder}/run", "trainer.max_steps=4"]
    processes = start(2, tmp_path, command)
    (said, _), (silent, _) = finish(processes)
    assert [p.returncode for p in processes] == [0, 0]
    assert "nothing to do" in said and silent == ""


def test_a_killed_process_ends_the_other_with_one_line(words, tmp_path):
    run = tmp_path / "run"
    command = [*TRAIN, *words, f"run.dir={run}", "trainer.epochs=100000"]
    processes = start(2, tmp_path, command)
    await_records(run, processes[0])
    processes[1].send_signal(signal.SIGKILL)
    (_, errors), _ = finish(processes)
    assert processes[0].returncode == 1
    own = [line for line in errors.splitlines() if not line.startswith("[ring]")]
    assert len(own) == 1 and own[0].startswith("error: [distributed] process 0 of 2")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_process_ends_all_after_the_same_update(
    number, words, tmp_path
):
    """They agree on the last update, and the run goes on as if nothing had been."""
    run = tmp_path / "run"
    command = [*TRAIN, *words, f"run.dir={run}"]
    processes = start(2, tmp_path, [*command, "trainer.epochs=100000"])
    await_records(run, processes[0])
    processes[1].send_signal(number)
    (said, errors), (silent, _) = finish(processes, timeout=60)
    assert [p.returncode for p in processes] == [128 + number] * 2, errors
    found = re.search(r"interrupted at update (\d+); .* from update (\d+)", said)
    assert found[1] == found[2] and int(found[1]) > 0 and silent == ""
    step = int(found[1])
    assert (run / "checkpoints" / f"step_{step:08}").is_dir()
    again = start(2, tmp_path, [*command, f"trainer.max_steps={step + 2}"])
    finish(again)
    assert [p.returncode for p in again] == [0, 0]
    steps = [r["step"] for r in read_metrics(run / "metrics.jsonl")]
    assert steps == sorted(steps) and steps[-1] == step + 2


def members(session):
    """Processes of a session that have not ended."""
    command = ["ps", "-s", str(session), "-o", "stat="]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    return [state for state in listed.split() if not state.startswith("Z")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg), (signal.SIGHUP, os.killpg)],
    ids=["SIGTERM to the launcher", "Ctrl-C", "a terminal that closes"],
)
def test_an_end_of_the_launcher_saves_the_run_and_leaves_no_process(
    number, send, words, tmp_path
):
    """The launcher alone is told, or the terminal tells all of its session."""
    run = tmp_path / "run"
    port = min(free_ports(2))
    launch = [LAUNCHER, "-n", "2", "--backend", "ring", "--starting-port", str(port)]
    command = [*TRAIN, *words, f"run.dir={run}"]
    with subprocess.Popen(
        [*launch, "--", sys.executable, *command, "trainer.epochs=100000"],
        cwd=CHECKOUT,
        env=os.environ | DO_NOT_COMPILE,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as launcher:
        await_records(run, launcher)
        send(launcher.pid, number)
        deadline = time.monotonic() + 120
        while members(launcher.pid):
            assert time.monotonic() < deadline, members(launcher.pid)
            time.sleep(0.1)
    step = max(checkpoint.steps(run / "checkpoints"))
    assert step > 0 and not list(run.rglob(".tmp-*"))
    again = start(2, tmp_path, [*command, f"trainer.max_steps={step + 2}"])
    finish(again)
    assert [p.returncode for p in again] == [0, 0]
    steps = [r["step"] for r in RunFolder(run).read_log()]
    assert steps == sorted(steps) and steps[-1] == step + 2


def test_processes_that_read_other_sentences_are_refused(words, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join(reversed(SENTENCES)) + "\n")
    command = [*TRAIN, *words, f"run.dir={tmp_path}/run", "trainer.max_steps=4"]
    changed = [f"data.train=[{other}]" if "data.train=" in w else w for w in command]
    processes = start(2, tmp_path, command, {1: changed})
    _, (_, errors) = finish(processes)
    assert processes[1].returncode == 2
    assert "error: [distributed] process 1 must have the settings" in errors


def test_a_sweep_in_several_processes_is_refused(words, tmp_path):
    command = [
        *TRAIN[:2],
        "-m",
        TRAIN[2],
        *words,
        "seed=1,2",
        f"run.dir={tmp_path}/sweep",
    ]
    processes = start(2, tmp_path, command)
    outputs = finish(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 2 and "a sweep must have one process" in errors


DOCUMENTED = [s for s in SNIPPETS if s.text.startswith("mlx.launch ")]


@pytest.mark.parametrize("snippet", DOCUMENTED, ids=lambda s: s.text[:50])
def test_documented_launches_have_options_of_the_launcher_and_a_whole_command(snippet):
    words = snippet.words
    place = words.index("--")
    known = subprocess.run(
        [LAUNCHER, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (word for word in words[:place] if word.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", known), option
    command = words[place + 1 :]
    size = 2 if command[0] == "energyflow" else 3
    python, *module = command[:size]
    is_ours = python.endswith("python") and module == TRAIN[:2]
    assert is_ours or command[:2] == ["energyflow", "train"]
    compose_config(*command[size:])

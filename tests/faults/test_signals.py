"""Signals at any moment of a training cost at most an update and spoil no file."""

import contextlib
import functools
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import read_metrics
from tests.build.tiny import SENTENCES, run_words, teacher_vectors
from tests.commands import CHECKOUT, run_command

WORDS = [
    *("+experiment=smoke", "data.captions=300", "data.buckets=[16,32]"),
    *("trainer.log_every=5", "trainer.validate_every=40", "trainer.decode_samples=0"),
    *("tokenizer=bpe", "tokenizer.bpe_size=300"),
]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS_OF_SIGNALS = ("hung up", "interrupted", "terminated")  # by number
SUFFIX = {
    "prepare": "efb",
    "encode": "npy",
    "decode": "txt",
    "evaluate": "json",
    "export": "d",
}


def begin(*words, module="train", options=("-u",), **settings):
    """Start a command of the package; returns its process.

    Args:
        words: Its arguments.
        module: Its name.
        options: Python's own.
        settings: Of ``subprocess.Popen``.
    """
    return subprocess.Popen(
        [sys.executable, *options, "-m", f"energyflow_mlx.{module}", *map(str, words)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a shell Ctrl-C is ignored, and a child inherits that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def await_import(process, module):
    """Wait until Python, which was asked to say so, has imported a module."""
    while not process.stderr.readline().rstrip().endswith(f" {module}"):
        assert process.poll() is None


def interrupted(words, number, delay, *, trained=False, times=1):
    """Start a training, send the signal after a while; its status and output.

    Args:
        words: Arguments of the command.
        number: The signal.
        delay: Seconds before it is sent.
        trained: Count them from the first update that is shown.
        times: How often it is sent, a tenth of a second apart.
    """
    process = begin(*words)
    before = ""
    while trained and not before.rpartition("\n")[2].startswith("step"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        before += f"\n{line.rstrip()}"
    time.sleep(delay)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1 * (times > 1))
    output, errors = process.communicate(timeout=120)
    return process.returncode, f"{before}\n{output}", errors


def check_ended(status, number, output, errors, *, waits=True):
    """It ended as documented, and lost at most an update where it could wait."""
    # Before its first line of our code Python ends the way the system does.
    assert status in (STATUS[number], -number), f"{status}\n{output}\n{errors}"
    assert status == -number or "Traceback" not in errors, errors
    assert "ignored in" not in errors, errors
    said = re.search(r"interrupted at update (\d+); .* from update (\d+)", output)
    if said and waits:
        assert int(said[1]) - int(said[2]) <= 1, output
    return int(said[2]) if said else None


def check_folder(folder, *, strict=True):
    """Nothing in it is half-written; returns the newest update.

    Args:
        folder: The run's.
        strict: Whether what was written aside is gone, too; after a second signal it
            may stay until the next start.
    """
    if not folder.exists():
        return 0
    assert not (strict and list(folder.rglob(".tmp-*")))
    whole = [p for p in folder.rglob("*.json") if ".tmp-" not in str(p)]
    for path in whole:
        json.loads(path.read_text())
    steps = checkpoint.steps(folder / "checkpoints")
    for step in steps:
        checkpoint.load(checkpoint.folder_of(folder / "checkpoints", step))
    if (folder / "metrics.jsonl").exists():
        read_metrics(folder / "metrics.jsonl")
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


def random_signals(folder, count, seed):
    """Runs that are ended at random moments, each going on from the one before.

    Returns:
        How often each signal came before training began, and after that.
    """
    words = [*WORDS, f"run.dir={folder}/run", f"teacher.cache_dir={folder}/cache"]
    draw, done, tally = random.Random(seed), 0, Counter()
    for _ in range(count):
        number, times = draw.choice(sorted(STATUS)), draw.choice([1, 1, 1, 2])
        moment = draw.uniform(0.0, 8.0)
        outcome = interrupted(
            [*words, "trainer.max_steps=100000"], number, moment, times=times
        )
        step = check_ended(outcome[0], number, *outcome[1:], waits=times == 1)
        newest = check_folder(folder / "run", strict=times == 1)
        assert newest >= done and step in (None, newest), f"seed {seed}"
        tally[signal.Signals(number).name, "before" if step is None else "after"] += 1
        done = newest
    finish(words, folder / "run", done)
    return tally


@pytest.mark.slow
def test_100_signals_at_random_moments_lose_nothing(tmp_path):
    tally = random_signals(tmp_path, 100, seed=0)
    sys.stdout.write(f"seed 0: {dict(tally)}\n")
    assert sum(tally.values()) == 100 and len({name for name, _ in tally}) == 3


@pytest.mark.parametrize("module", ["train", "encode", "doctor"])
@pytest.mark.parametrize("number", sorted(STATUS))
def test_a_signal_while_modules_are_imported_is_one_line(module, number):
    """Python tells when a module is there: the moment is the same each time."""
    options = ("-X", "importtime")
    process = begin("x=1", module=module, options=options)
    await_import(process, "energyflow_mlx.runtime.blas")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    own = [x for x in errors.splitlines() if not x.startswith("import time:")]
    assert (process.returncode, output) == (STATUS[number], "")
    assert own == [WORDS_OF_SIGNALS[sorted(STATUS).index(number)]]


def test_a_second_signal_does_not_wait_and_the_folder_is_whole(tmp_path):
    words = [*run_words(tmp_path), "+experiment=ab", f"run.dir={tmp_path}/run"]
    endless = [*words, "trainer.epochs=100000"]
    status, output, errors = interrupted(
        endless, signal.SIGTERM, 0.1, trained=True, times=2
    )
    check_ended(status, signal.SIGTERM, output, errors, waits=False)
    done = check_folder(tmp_path / "run", strict=False)
    finish(words, tmp_path / "run", done)


def test_a_stopped_and_continued_run_is_the_same(tmp_path):
    """As a laptop that sleeps; checkpoints that the clock asks for change nothing."""
    words = [*run_words(tmp_path), "+experiment=ab", "trainer.max_steps=20"]
    found = []
    for name, minutes in (("plain", 0), ("stopped", 1e-6)):
        folder = tmp_path / name
        process = begin(*words, f"run.dir={folder}", f"trainer.save_minutes={minutes}")
        if name == "stopped":
            while not process.stdout.readline().startswith("step"):
                assert process.poll() is None
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.0)
            process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        step = checkpoint.steps(folder / "checkpoints")[-1]
        path = checkpoint.folder_of(folder / "checkpoints", step)
        found.append((step, path.joinpath("model.safetensors").read_bytes()))
    assert found[0] == found[1] and found[0][0] == 20


def test_a_terminal_that_closes_loses_nothing(tmp_path):
    """Whatever the run writes to it fails from then on."""
    words = [*run_words(tmp_path), "+experiment=ab", f"run.dir={tmp_path}/run"]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(CHECKOUT)
        command = [sys.executable, "-m", "energyflow_mlx.train", *words]
        os.execv(sys.executable, [*command, "trainer.epochs=100000"])
    seen, deadline = b"", time.monotonic() + 60
    while b"first update" not in seen and b" train " not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 65536)
    while not checkpoint.steps(tmp_path / "run" / "checkpoints"):
        assert time.monotonic() < deadline
        os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == STATUS[signal.SIGHUP]
    done = check_folder(tmp_path / "run")
    assert done > 0
    finish(words, tmp_path / "run", done)


@pytest.mark.slow
def test_ctrl_c_while_mx_compile_compiles_lets_the_update_finish(tmp_path):
    """A terminal sends it to the compiler, too, which a run cannot do without."""
    words = [*WORDS, f"run.dir={tmp_path}/run", f"teacher.cache_dir={tmp_path}/cache"]
    process = begin(
        *words,
        "trainer.max_steps=100000",
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    line = ""
    while "run folder" not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()
    while not _is_compiling(process.pid):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert check_ended(process.returncode, signal.SIGINT, output, errors) > 0
    finish(words, tmp_path / "run", check_folder(tmp_path / "run"))


def _is_compiling(session):
    """Whether a compiler runs in a session."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name == "cc1plus" and int(rest.split()[3]) == session:
                return True
    return False


COMMANDS = {
    "prepare": ("input={text}", "output={out}", "teacher=minilm"),
    "encode": ("run={run}", "input={text}", "output={out}"),
    "decode": ("run={run}", "input={vectors}", "output={out}"),
    "evaluate": ("run={run}", "sts={pairs}"),
    "export": ("run={run}", "output={out}"),
}


# Seconds after which a command is at work for certain, or ready to be; inputs are so
# long that no machine is at their end by then. `evaluate` shows no sign of its work;
# it is at least far enough that Python itself does not take the signal.
WORKING = dict.fromkeys(COMMANDS, 120.0) | {"evaluate": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a tiny finished run, and of inputs that take a while."""
    folder = tmp_path_factory.mktemp("signals")
    words = [*run_words(folder), "+experiment=ab", f"run.dir={folder}/run"]
    done = run_command("train", *words, "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    many = [f"{text} {n}" for n in range(40_000) for text in SENTENCES]
    (folder / "many.tsv").write_text(
        "".join(f"{n % 2}\t{text}\tx\n" for n, text in enumerate(many))
    )
    (folder / "many.txt").write_text("\n".join(many) + "\n")
    np.save(folder / "many.npy", np.tile(teacher_vectors(SENTENCES), (4000, 1)))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_any_command_with_one_line_and_nothing_half_written(
    command, trained, tmp_path
):
    number = sorted(STATUS)[len(command) % 3]
    places = {"run": trained / "run", "text": trained / "many.txt"}
    places["pairs"] = trained / "many.tsv"
    places |= {
        "vectors": trained / "many.npy",
        "out": tmp_path / f"out.{SUFFIX[command]}",
    }
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    given = [word.format(**places) for word in COMMANDS[command]]
    shows = command != "evaluate"
    options = () if shows else ("-X", "importtime")
    process = begin(*given, module=command, options=options)
    if not shows:
        await_import(process, "energyflow_mlx.runtime.blas")
    # At work: what it makes is there, aside; `evaluate` makes nothing before its end.
    began = time.monotonic()
    while not any(tmp_path.iterdir()) and time.monotonic() < began + WORKING[command]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    # Export may have been faster: then Python itself takes the signal, or none.
    if process.returncode != 0 and not errors.startswith("wrote "):
        assert process.returncode == STATUS[number], errors
        assert errors.splitlines()[-1] in WORDS_OF_SIGNALS and "Trace" not in errors
        # What prepare has done waits for the same command.
        left = [path for path in tmp_path.iterdir() if path.suffix != ".partial"]
        assert left == []
    else:
        assert command == "export"
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before

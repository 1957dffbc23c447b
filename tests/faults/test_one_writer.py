"""One process trains in a run folder; its lock ends with it, and stops no reader."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from energyflow_mlx import load
from energyflow_mlx.errors import InputError
from energyflow_mlx.plots import read_facts
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.lock import FolderLock
from energyflow_mlx.runs.metrics import read_metrics
from tests.commands import CHECKOUT, run_command
from tests.faults.test_start import SMALL

HOLDER = """
import os, sys, time
from pathlib import Path
from energyflow_mlx.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
# A child that outlives it, as those of a library might.
if len(sys.argv) == 2 or os.fork() == 0:
    print("held", flush=True)
time.sleep(600)
"""


def holder(path, *more):
    """A process that holds a lock."""
    words = [sys.executable, "-c", HOLDER, str(path), *more]
    process = subprocess.Popen(
        words, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def taken(path):
    """Whether the lock can be taken here and now."""
    with closing(FolderLock(path)) as lock:
        lock.acquire()
        return lock.is_held


def snapshot(folder):
    paths = sorted(Path(folder).rglob("*"))
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    words = [*SMALL, f"run.dir={folder}", f"teacher.cache_dir={folder.parent / 'c'}"]
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    return folder, words


def test_a_second_trainer_is_refused_in_one_line_and_touches_nothing(trained):
    folder, words = trained
    with closing(FolderLock(RunFolder(folder).lock)) as lock:
        lock.acquire()
        before = snapshot(folder)
        done = run_command("train", *words, "trainer.max_steps=9")
        assert snapshot(folder) == before
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"process {os.getpid()} on {socket.gethostname()}" in line
    assert f"[run] {folder} must have one process" in line


def test_readers_and_their_results_need_no_lock(trained, tmp_path):
    folder, _ = trained
    with closing(FolderLock(RunFolder(folder).lock)) as lock:
        lock.acquire()
        assert load(folder).encode(["A dog runs."]).shape == (1, 384)
        assert read_facts(RunFolder(folder)).summary["status"] == "finished"
        evaluated = run_command("evaluate", f"run={folder}")
        exported = run_command("export", f"run={folder}", f"output={tmp_path / 'm'}")
    assert evaluated.returncode == exported.returncode == 0
    assert RunFolder(folder).read_evaluation()["sentences"] > 0


def test_a_killed_holder_has_no_lock_any_more(tmp_path):
    process = holder(tmp_path / "lock")
    with pytest.raises(InputError, match=f"process {process.pid} on"):
        taken(tmp_path / "lock")
    end(process)
    (tmp_path / "other").touch()  # the folder stays
    assert taken(tmp_path / "lock")


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path):
    process = holder(tmp_path / "lock", "fork")
    try:
        process.kill()
        process.wait()
        assert taken(tmp_path / "lock")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_a_program_that_the_holder_starts_does_not_get_the_lock(tmp_path):
    lock = FolderLock(tmp_path / "lock")
    lock.acquire()
    with subprocess.Popen(["sleep", "600"], close_fds=False) as program:
        lock.close()
        (tmp_path / "lock").touch()
        assert taken(tmp_path / "lock")
        program.kill()


def test_a_lock_that_nobody_put_to_use_leaves_no_folder(tmp_path):
    assert taken(tmp_path / "a" / "b" / "lock")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    assert taken(tmp_path / "a" / "lock")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"file", "lock"}


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    """As NFS answers where its server keeps no locks; nothing here can be mounted."""

    def refuse(_descriptor, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"locks \(flock\), got No locks available"):
        taken(tmp_path / "run" / "lock")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("x", p)])
def test_a_lock_that_is_no_plain_file_is_refused_and_never_waited_for(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(InputError, match="must be a plain file"):
        taken(tmp_path / "lock")


def test_two_that_start_at_once_leave_one_run(trained, tmp_path):
    """Neither finds a run; the one that comes second to write it is refused.

    Or has nothing to do, where the other has ended by then.
    """
    words = [*trained[1], f"run.dir={tmp_path / 'run'}", "trainer.max_steps=60"]
    words.append("trainer.validate_every=20")
    command = [sys.executable, "-m", "energyflow_mlx.train", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    pair = [subprocess.Popen(command, cwd=CHECKOUT, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=240)[1] for process in pair]
    statuses = sorted(process.returncode for process in pair)
    assert statuses in ([0, 2], [0, 0]), said
    lines = "".join(said).splitlines()
    assert len(lines) == statuses.count(2)
    for line in lines:
        assert "got a second one: process" in line or "began meanwhile" in line
    steps = [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")
             if r["kind"] == "validation"]  # fmt: skip
    assert steps == sorted(set(steps))

"""A start that is cut short, at whatever operation, is started again as if new."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.lock import FolderLock
from energyflow_mlx.runs.start import start
from energyflow_mlx.text.tokenizer import Tokenizer
from tests.build.tiny import SENTENCES
from tests.commands import CHECKOUT, run_command
from tests.training.small import make_config

WHOLE = {"config.json", "lock", "tokenizer"}
SMALL = [
    *("+experiment=ab", "trainer.max_steps=4", "trainer.micro_batch=4"),
    *("trainer.validate_every=2", "trainer.decode_samples=0", "data.val_limit=8"),
    *("encoder.dim=16", "encoder.hidden=16", "decoder.dim=16", "decoder.hidden=16"),
    *("tokenizer.kind=bpe", "tokenizer.bpe_size=300", "data.captions=100"),
]

# Kills its own process before the n-th operation that changes a file below a folder.
HOOK = """
import os, signal, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
CHANGES += ("shutil.rmtree", "os.link", "os.symlink")

def kill_before(number, folder):
    left = [number]

    def hook(event, args):
        is_change = event in CHANGES or (event == "open" and args[2] & WRITES)
        if is_change and str(args[0]).startswith(folder):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train_bpe(SENTENCES, 300)


def begin(path, tokenizer, name="run"):
    """What a run does once nothing can be refused any more."""
    folder = RunFolder(path)
    with closing(FolderLock(folder.lock)) as lock:
        lock.acquire()
        config = make_config({"run.dir": str(path), "name": name})
        start(folder, config, tokenizer.save)


def in_child(work):
    """Do something in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed(path, tokenizer, number):
    """Whether a start was killed before its n-th operation, rather than ended."""
    names = {}
    exec(HOOK, names)

    def work():
        names["kill_before"](number, str(path))
        begin(path, tokenizer)

    status = in_child(work)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def test_a_start_killed_before_any_operation_is_begun_again(tmp_path, tokenizer):
    count = 0
    while killed(tmp_path / str(count), tokenizer, count):
        folder = RunFolder(tmp_path / str(count))
        own = make_config({"run.dir": str(folder.path)})
        folder.check(own)  # refuses nothing
        if not folder.exists():  # else the configuration, written last, is there
            begin(folder.path, tokenizer)
        assert {path.name for path in folder.path.iterdir()} == WHOLE
        assert Tokenizer.load(folder.tokenizer).tokens == tokenizer.tokens
        assert folder.read_config() == own
        count += 1
    assert count >= 12
    assert {path.name for path in (tmp_path / str(count)).iterdir()} == WHOLE


@pytest.mark.parametrize("most", [10, 300, 50_000])
def test_a_start_on_a_full_disk_leaves_nothing(tmp_path, tokenizer, most):
    """At the lock, in the tokenizer, at the settings."""
    path = tmp_path / "below" / "run"

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        begin(path, tokenizer, "long" * 20_000)

    assert os.waitstatus_to_exitcode(in_child(work)) != 0
    assert list(tmp_path.iterdir()) == []
    begin(path, tokenizer)
    assert {file.name for file in path.iterdir()} == WHOLE


def test_a_start_in_a_folder_with_foreign_files_is_refused_and_touches_none(
    tmp_path, tokenizer
):
    for name in ("tokenizer/tokenizer.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="must be empty or a run folder"):
        RunFolder(tmp_path).check(make_config())
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_text() == "mine"


def test_a_run_that_began_meanwhile_is_not_begun_over(tmp_path, tokenizer):
    begin(tmp_path / "run", tokenizer)
    before = (tmp_path / "run" / "config.json").stat().st_mtime_ns
    with pytest.raises(InputError, match="another process began meanwhile"):
        begin(tmp_path / "run", tokenizer)
    assert (tmp_path / "run" / "config.json").stat().st_mtime_ns == before


def test_a_folder_that_hydra_made_is_one_to_start_in(tmp_path):
    """And one that it filled with its own record; a refused run leaves no more."""
    folder = tmp_path / "run"
    words = [*SMALL, f"run.dir={folder}", f"hydra.run.dir={folder}"]
    words += ["hydra.output_subdir=.hydra", f"teacher.cache_dir={tmp_path / 'cache'}"]
    refused = run_command("train", *words, "data.train=missing.txt")
    assert refused.returncode == 2 and "missing.txt" in refused.stderr
    assert [path.name for path in folder.iterdir()] == [".hydra"]
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    assert RunFolder(folder).read_summary()["status"] == "finished"


def train_killed(words, number, folder):
    """A training command that dies before an operation; whether it did."""
    code = f"{HOOK}\nkill_before({number}, {str(folder)!r})\n"
    code += "from energyflow_mlx.train import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=CHECKOUT, capture_output=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def final_arrays(folder):
    found = RunFolder(folder).latest().arrays
    return {name: np.array(array) for name, array in found.items()}


@pytest.mark.slow
def test_a_run_killed_before_any_operation_of_its_start_ends_all_the_same(tmp_path):
    """The same command goes on, to the same bits, and leaves nothing behind.

    From the command to the first checkpoint, two processes for each operation.
    """
    words = [*SMALL, f"teacher.cache_dir={tmp_path / 'cache'}"]
    whole = tmp_path / "whole"
    assert run_command("train", *words, f"run.dir={whole}").returncode == 0
    expected = final_arrays(whole)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*"))
    count, folder, is_over = 0, tmp_path / "run", False
    while not is_over:
        shutil.rmtree(folder, ignore_errors=True)
        assert train_killed([*words, f"run.dir={folder}"], count, folder)
        is_over = bool(RunFolder(folder).steps())
        done = run_command("train", *words, f"run.dir={folder}")
        assert done.returncode == 0, (count, done.stderr)
        found = final_arrays(folder)
        assert all(np.array_equal(found[k], expected[k]) for k in expected), count
        left = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        assert left == names, count
        count += 1

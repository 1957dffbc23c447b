"""A disk that is full, fills up or is only read: one line, nothing lost, nothing left.

The commands run in one real process on a small tmpfs of its own, see ``full_disk``;
what needs no mount is below.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.data.vectors import new_matrix
from energyflow_mlx.errors import DiskError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import MetricsLog, read_metrics
from energyflow_mlx.runtime import disk
from energyflow_mlx.runtime.atomic import folder_aside, write_aside, write_text
from tests.commands import CHECKOUT, run_command

# The commands of a day, and at how many operations of each the disk fills up.
OPERATIONS = {
    **{"train": 14, "prepare": 6, "encode": 2, "decode": 2, "evaluate": 5},
    **{"export": 5, "export weights": 2, "export projection": 2},
}
# Bytes that stay free, in turn, while larger files are still to come.
LEFT = {"train": (0, 8192, 100_000), "prepare": (0, 8192, 30_000)}

QUICK = [
    {"command": "train", "free": 1_000_000},
    {"command": "train", "number": 9, "of": 10},
    {"command": "prepare", "free": 100_000},
    {"command": "prepare", "number": 3, "of": 4},
    {"command": "encode", "free": 40_000},
    {"command": "encode", "limit": 40_000},
    {"command": "encode", "read_only": True},
    {"command": "decode", "free": 0},
    {"command": "evaluate", "number": 3, "of": 3},
    {"command": "evaluate again", "read_only": True},
    {"command": "evaluate again", "stdout": "/dev/full"},
    {"command": "export", "free": 100_000},
    {"command": "export", "read_only": True},
]
FULL = [
    {"command": name, "number": number, "of": of, "left": left}
    for name, of in OPERATIONS.items()
    for number in range(1, of + 1)
    for left in [LEFT.get(name, (0, 0, 0))[number % 3 if 2 * number < of else 0]]
]
FULL += [{"command": name, "free": 0} for name in (*OPERATIONS, "plot", "profile")]
FULL += [{"command": name, "read_only": True} for name in OPERATIONS]


def name_of(point):
    return " ".join(f"{key}={value}" for key, value in point.items())


def call_all(points, folder):
    """What became of every point; a process that a signal ends is an error."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("needs a mount of its own: unshare is missing or not permitted")
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "tests.faults.full_disk", str(folder)],
        cwd=CHECKOUT,
        input=json.dumps(points),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-4000:])
    found = json.loads(done.stdout)
    return dict(zip(map(name_of, points), found["outcomes"], strict=True))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return call_all(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return call_all(FULL, tmp_path_factory.mktemp("full"))


def check(point, outcome):
    assert outcome["status"] == 2, outcome
    *warnings, line = outcome["err"].splitlines()
    assert line.startswith("error: ["), outcome["err"]
    assert all(said.startswith("[trackers] ") for said in warnings), outcome["err"]
    if not point.keys() & {"read_only", "stdout"}:
        assert " needs " in line and " bytes" in line, line
        assert " free" in line or " a file may have " in line, line
    assert not [name for name in outcome["new"] if ".tmp-" in name], outcome["new"]
    # Beside a run and what the teacher has finished, nothing stays.
    places = ("new", "fresh", "cache", "out.efb.partial", "run/")
    assert not [n for n in outcome["new"] if not n.startswith(places)], outcome["new"]
    assert outcome["again"] == 0 and outcome["different"] == []


@pytest.mark.parametrize("point", QUICK, ids=name_of)
def test_a_spoilt_disk_is_one_line_and_the_same_command_gives_the_same_after(
    quick, point
):
    check(point, quick[name_of(point)])


@pytest.mark.slow
@pytest.mark.parametrize("point", FULL, ids=name_of)
def test_a_disk_that_fills_up_at_any_point_is_one_line(full, point):
    check(point, full[name_of(point)])


def test_a_run_says_from_where_it_goes_on(quick):
    line = quick["command=train number=9 of=10"]["err"]
    assert "goes on from the last checkpoint, that of update" in line


def test_the_room_for_checkpoints_is_asked_for_before_the_run(quick):
    outcome = quick["command=train free=1000000"]
    assert "more checkpoints, as trainer.keep=2" in outcome["err"]
    assert not [name for name in outcome["new"] if name.startswith("new")]


def test_a_result_that_cannot_be_stored_is_printed_first(quick):
    """The teacher's vectors come from the cache on the same disk, without its lock."""
    outcome = quick["command=evaluate again read_only=True"]
    assert "cosine" in json.loads(outcome["out"].splitlines()[-1])
    assert (
        "evaluation.json: Read-only file system: the result above is not"
        in (outcome["err"])
    )


# Without a mount ----------------------------------------------------------------------


@contextmanager
def longest_file(size):
    """No file of this process gets longer: the system refuses what is over it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_file(path):
    with write_aside(path / "a" / "file") as aside:
        aside.write_bytes(bytes(50_000))


def write_known_file(path):
    write_text(path / "a" / "file", " " * 50_000)


def write_folder(path):
    with folder_aside(path / "a" / "folder") as aside:
        (aside / "file").write_bytes(bytes(50_000))


def write_matrix(path):
    with new_matrix(path / "a.npy", (100, 100)) as write:
        write(np.arange(100), np.zeros((100, 100), np.float32))


def write_checkpoint(path):
    checkpoint.save(path, 1, {"model.a": mx.zeros(10_000)}, {}, keep=1)


WRITERS = [write_file, write_known_file, write_folder, write_matrix, write_checkpoint]


@pytest.mark.parametrize("write", WRITERS)
def test_a_limit_on_files_is_named_and_nothing_stays(write, tmp_path):
    with longest_file(20_000), pytest.raises(DiskError, match="may have 20000") as said:
        write(tmp_path)
    assert said.value.errno == errno.EFBIG and str(tmp_path) in str(said.value)
    assert ".tmp-" not in str(said.value)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path)
    assert list(tmp_path.iterdir()) != []


def test_a_matrix_takes_its_room_before_its_rows_come(tmp_path):
    with new_matrix(tmp_path / "a.npy", (100, 100)) as write:
        (aside,) = tmp_path.iterdir()
        if hasattr(os, "posix_fallocate"):  # macOS has no such call
            assert aside.stat().st_blocks * 512 >= 40_000
        write(np.array([7, 3, 4]), np.array([[7.0], [3], [4]]) * np.ones((1, 100)))
    found = np.load(tmp_path / "a.npy")
    assert found[[3, 4, 7], 0].tolist() == [3, 4, 7] and found.sum() == 1400
    np.save(tmp_path / "b.npy", found)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_record_that_does_not_fit_is_a_line_and_the_log_stays_readable(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(DiskError, match="metrics.jsonl: File too large"):
        with longest_file(2000), MetricsLog(path) as log:
            for step in range(100):
                log.write({"step": step, "text": "a" * 100})
    with MetricsLog(path) as log:
        log.write({"step": 1000})
    steps = [record["step"] for record in read_metrics(path)]
    assert steps == [*range(len(steps) - 1), 1000] and len(steps) > 10


def test_space_is_asked_for_where_a_path_is_to_lie(tmp_path):
    free = disk.free_bytes(tmp_path / "not" / "there")
    disk.require_space(tmp_path / "not" / "there", [free // 4, free // 4])
    with pytest.raises(DiskError, match=f"needs {2**62} bytes, .* are free; for ever"):
        disk.require_space(tmp_path / "not", [2**61, 2**61], "for ever")
    assert not (tmp_path / "not").exists()


def test_a_file_that_must_not_be_changed_can_be_replaced(tmp_path):
    """The folder decides: a new file takes the place of the old one."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o444)
    asked = disk._nearest(tmp_path / "a")
    write_text(tmp_path / "a", "new")
    assert asked == tmp_path and (tmp_path / "a").read_text() == "new"


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    missing = tmp_path / "in" / "absent"
    with pytest.raises(FileNotFoundError) as said, disk.writing(tmp_path / "out" / "a"):
        missing.read_bytes()
    assert not isinstance(said.value, DiskError)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the file /dev/full")
def test_a_full_disk_behind_standard_output_is_a_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "energyflow_mlx.decode", "--help"],
            cwd=CHECKOUT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: [disk] standard output")


@pytest.mark.parametrize(
    "text",
    [
        '[Compile::eval_cpu] Failed: "g++ "{}/tmp_1a.cpp" -o "{}/tmp_1a.so"": fatal '
        "error: error closing cc.s: No space left on device",
        "filesystem error: cannot create directories: Read-only file system [{}/mlx]",
    ],
)
def test_a_full_folder_of_the_compiler_is_named_and_left_clean(
    text, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "tmp_1a.cpp").write_text("half")
    said = DiskError.of_compiler(RuntimeError(text.format(*[tmp_path] * 2)))
    assert f"{tmp_path}: " in str(said) and "TMPDIR can name another" in str(said)
    assert (tmp_path / "tmp_1a.cpp").exists() == text.startswith("filesystem")
    assert DiskError.of_compiler(RuntimeError(text.split(":")[0])) is None


def test_a_folder_in_which_a_file_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    done = run_command(
        *("export", "input=absent.efck1", f"output={tmp_path}/file/a.npz")
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1

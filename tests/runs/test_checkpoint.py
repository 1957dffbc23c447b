"""Checkpoints survive kills, damage and concurrent readers, and never lie."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.header import write_header
from energyflow_mlx.runtime.atomic import write_aside


def example(step=0):
    """Everything a run has to save: all trained arrays and the optimizer's, by name."""
    mx.random.seed(step)
    return {
        "model.encoder.blocks.0.weight": mx.random.normal((5, 3)),
        "model.encoder.bias": mx.random.normal((3,)).astype(mx.bfloat16),
        "model.empty": mx.zeros((0, 4)),
        "optimizer.encoder.bias.m": mx.random.normal((3,)).astype(mx.float16),
        "optimizer.step": mx.array(step, mx.uint64),
        "random.key": mx.random.key(step),
        "random.flags": mx.array([True, False]),
    }


META = {"epoch": 2, "best": {"cosine": 0.5}, "order": [3, 1, 2], "state": 2**127}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert mx.array_equal(got[name], array).item(), name


# -- Round trip ------------------------------------------------------------------------


def test_round_trip_is_bit_exact_and_carries_all_state(tmp_path):
    path = checkpoint.save(tmp_path, 123, example(), META, keep=3)
    assert path.name == "step_00000123"
    arrays, meta = checkpoint.load(path)
    assert_same(arrays, example())
    assert meta == META | {"step": 123}


def test_saving_changes_nothing_of_the_live_state(tmp_path):
    live, meta = example(), dict(META)
    copies = {name: mx.array(array) for name, array in live.items()}
    identities = {name: id(array) for name, array in live.items()}
    checkpoint.save(tmp_path, 1, live, meta, keep=3)
    assert {name: id(array) for name, array in live.items()} == identities
    assert_same(live, copies)
    assert meta == META


def test_special_values_keep_their_bits(tmp_path):
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    path = checkpoint.save(tmp_path, 0, {"model.a": mx.array(special)}, {}, keep=3)
    loaded = np.array(checkpoint.load(path)[0]["model.a"])
    np.testing.assert_array_equal(loaded.view(np.uint32), special.view(np.uint32))


def test_transposed_and_sliced_arrays_are_saved_by_value(tmp_path):
    x = mx.arange(12).reshape(3, 4)
    path = checkpoint.save(tmp_path, 0, {"a.t": x.T, "a.s": x[1:, ::2]}, {}, keep=3)
    arrays, _ = checkpoint.load(path)
    assert arrays["a.t"].tolist() == x.T.tolist()
    assert arrays["a.s"].tolist() == [[4, 6], [8, 10]]


def test_one_group_can_be_loaded_alone(tmp_path):
    path = checkpoint.save(tmp_path, 1, example(), META, keep=3)
    (path / "optimizer.safetensors").write_bytes(b"not even read")
    arrays, meta = checkpoint.load(path, groups=("model",))
    expected = {k: v for k, v in example().items() if k.startswith("model.")}
    assert_same(arrays, expected)
    assert meta["epoch"] == 2
    with pytest.raises(InputError, match=r"must hold lattice\.safetensors"):
        checkpoint.load(path, groups=("lattice",))


def test_a_checkpoint_holds_no_pickle(tmp_path):
    path = checkpoint.save(tmp_path, 1, example(), META, keep=3)
    files = {file.name for file in path.iterdir()}
    assert files == {
        "checkpoint.json",
        *("model.safetensors", "optimizer.safetensors", "random.safetensors"),
    }
    json.loads((path / "checkpoint.json").read_text())


def test_loading_is_eager(tmp_path):
    """``mx.load`` is lazy: overwriting the file before use would change the arrays."""
    path = checkpoint.save(tmp_path, 1, example(), META, keep=3)
    arrays, _ = checkpoint.load(path)
    for file in path.iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    assert_same(arrays, example())


def test_loaded_arrays_are_evaluated(tmp_path):
    path = checkpoint.save(tmp_path, 1, example(), META, keep=3)
    arrays, _ = checkpoint.load(path)
    graph = io.StringIO()
    mx.export_to_dot(graph, *[array for array in arrays.values() if array.size])
    assert "Load" not in graph.getvalue()


# -- What save refuses -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "arrays", "meta", "message"),
    [
        (-1, {}, {}, "step must be an integer >= 0, got -1"),
        (True, {}, {}, "step must be"),
        (1.0, {}, {}, "step must be"),
        (1, {}, {"best": float("nan")}, "meta must be finite JSON"),
        (1, {}, {"path": object()}, "meta must be finite JSON"),
        (1, {}, {"order": (1, 2)}, "survive JSON unchanged"),
        (1, {}, {1: "x"}, "survive JSON unchanged"),
        (1, {}, {"step": 2}, r"meta\['step'\] must be 1"),
        (1, {"../evil.a": mx.zeros(1)}, {}, "names must start with a group"),
        (1, {"": mx.zeros(1)}, {}, "names must start with a group"),
        (1, {"A.x": mx.zeros(1), "a.y": mx.zeros(1)}, {}, "letter case"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path, step, arrays, meta, message
):
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path / "new", step, arrays, meta, keep=3)
    assert not (tmp_path / "new").exists()


def test_only_mlx_arrays_are_saved(tmp_path):
    with pytest.raises(TypeError, match=r"'model\.a' must be an mx\.array, got float"):
        checkpoint.save(tmp_path, 1, {"model.a": 1.0}, {}, keep=3)


# -- Damage ----------------------------------------------------------------------------


def files_of(path):
    return sorted(file.name for file in path.iterdir())


FILES = ["checkpoint.json", *(f"{g}.safetensors" for g in ("model", "optimizer"))]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "longer", "flip"])
def test_damage_is_found_names_the_file_and_is_skipped(tmp_path, caplog, name, damage):
    older = checkpoint.save(tmp_path, 1, example(1), META, keep=3)
    path = checkpoint.save(tmp_path, 2, example(2), META, keep=3)
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[:-3])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    elif damage == "longer":
        file.write_bytes(data + b"}")
    else:
        data[len(data) * 2 // 3] ^= 4
        file.write_bytes(data)
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as refused:
        checkpoint.load(path)
    if damage in ("truncated", "longer") and name != "checkpoint.json":
        assert f"must be {len(data)} bytes" in str(refused.value)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path) == older
    assert str(file) in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()


def test_every_flipped_bit_of_the_smallest_checkpoint_is_found(tmp_path):
    path = checkpoint.save(tmp_path, 7, {"a.b": mx.array([1.0])}, {"x": 1}, keep=3)
    for file in path.iterdir():
        data = file.read_bytes()
        for position in range(len(data)):
            broken = bytearray(data)
            broken[position] ^= 1 << (position % 8)
            file.write_bytes(broken)
            try:
                arrays, meta = checkpoint.load(path)
            except InputError:
                continue
            # White space of the JSON may change; nothing that it says may.
            assert file.name == "checkpoint.json"
            assert (arrays["a.b"].tolist(), meta) == ([1.0], {"x": 1, "step": 7})
        file.write_bytes(data)


def test_a_half_written_folder_is_never_taken(tmp_path, caplog):
    whole = checkpoint.save(tmp_path, 1, example(), META, keep=3)
    half = tmp_path / "step_00000002"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"\0" * 10)
    aside = tmp_path / ".tmp-step_00000003-77"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"\0" * 10)
    assert checkpoint.latest(tmp_path) == whole
    assert "step_00000002" in caplog.text and ".tmp-" not in caplog.text
    checkpoint.save(tmp_path, 4, example(), META, keep=3)
    assert not aside.exists()


def test_foreign_names_are_ignored(tmp_path):
    for name in ("step_1", "step_abc", "best", "step_00000009.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000008").write_text("a file")
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.latest(tmp_path / "absent") is None


def rewrite_header(path, **changes):
    file = path / "checkpoint.json"
    header = json.loads(file.read_text())
    header.pop("sha256")
    write_header(file, header | changes)


def test_another_format_version_is_refused_not_skipped(tmp_path):
    checkpoint.save(tmp_path, 1, example(), META, keep=3)
    path = checkpoint.save(tmp_path, 2, example(), META, keep=3)
    rewrite_header(path, version=99)
    for read in (
        lambda: checkpoint.load(path),
        lambda: checkpoint.latest(tmp_path),
        lambda: checkpoint.load_latest(tmp_path),
    ):
        with pytest.raises(checkpoint.VersionError, match="version 1, got 99"):
            read()


def test_another_format_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 2, example(), META, keep=3)
    rewrite_header(path, format="somebody-else")
    with pytest.raises(InputError, match="of format 'energyflow-checkpoint'"):
        checkpoint.load(path)


def test_arrays_other_than_the_header_names_are_refused(tmp_path):
    path = checkpoint.save(tmp_path, 2, {"model.a": mx.zeros(3)}, META, keep=3)
    files = json.loads((path / "checkpoint.json").read_text())["files"]
    files["model.safetensors"]["arrays"]["model.a"]["shape"] = [4]
    rewrite_header(path, files=files)
    with pytest.raises(InputError, match="arrays that its header entry names"):
        checkpoint.load(path)


# -- Keeping and replacing -------------------------------------------------------------


def test_the_newest_and_the_protected_checkpoints_stay(tmp_path):
    for step in (1, 2, 3, 4, 5):
        checkpoint.save(tmp_path, step, example(), META, keep=2, protect={2})
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    checkpoint.save(tmp_path, 6, example(), META, keep=1)
    assert checkpoint.steps(tmp_path) == [6]
    assert files_of(tmp_path) == ["step_00000006"]


def test_keep_zero_prunes_nothing(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, {"a.b": mx.zeros(1)}, {}, keep=0)
    assert checkpoint.steps(tmp_path) == [0, 1, 2, 3, 4]


def test_the_checkpoint_just_written_is_never_pruned(tmp_path):
    """After a resume stepped over a damaged later one, that one must not count."""
    checkpoint.save(tmp_path, 30, example(), META, keep=3)
    (tmp_path / "step_00000030" / "model.safetensors").write_bytes(b"")
    written = checkpoint.save(tmp_path, 20, example(), META, keep=1)
    assert checkpoint.latest(tmp_path) == written


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 5, example(1), META, keep=3)
    path = checkpoint.save(tmp_path, 5, example(2), {"epoch": 9}, keep=3)
    arrays, meta = checkpoint.load(path)
    assert_same(arrays, example(2))
    assert meta == {"epoch": 9, "step": 5}
    assert files_of(tmp_path) == ["step_00000005"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    path = checkpoint.save(tmp_path, 5, example(1), META, keep=1)
    path.rename(tmp_path / "step_00000005~")
    found = checkpoint.load_latest(tmp_path)
    assert_same(found.arrays, example(1))
    assert found.meta["step"] == 5
    checkpoint.save(tmp_path, 5, example(2), META, keep=1)
    assert files_of(tmp_path) == ["step_00000005"]


def test_a_replacement_that_gets_no_name_leaves_the_replaced_one(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path, 5, example(1), META, keep=3)
    rename = Path.rename

    def stopped(self, target):
        if Path(target) == path:
            raise OSError("stopped before the new one has its name")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(OSError, match="stopped"):
        checkpoint.save(tmp_path, 5, example(2), META, keep=3)
    assert_same(checkpoint.load_latest(tmp_path).arrays, example(1))


# -- Kills, full disks, readers --------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from energyflow_mlx.runs import checkpoint
import mlx.core as mx
folder = Path(sys.argv[1])
step = 0
while True:
    step += 1
    arrays = {f"model.{i}": mx.full((256, 256), step + i) for i in range(4)}
    arrays["optimizer.step"] = mx.array(step)
    checkpoint.save(folder, step, arrays, {"step": step, "name": "x" * 1000}, keep=2)
    print(step, flush=True)
"""


def start_writer(folder, code=WRITER):
    command = [sys.executable, "-c", code, str(folder)]
    checkout = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True)


def check_consistent(found, at_least):
    step = found.meta["step"]
    assert step >= at_least
    assert found.arrays["optimizer.step"].item() == step
    for i in range(4):
        assert (found.arrays[f"model.{i}"] == step + i).all().item()


def test_kill_9_in_the_middle_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    leftovers = 0
    for round_number in range(6):
        folder = tmp_path / str(round_number)
        with start_writer(folder) as writer:
            published = int(writer.stdout.readline())
            time.sleep(rng.uniform(0.0, 0.03))
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                published = int(line) if line.endswith("\n") else published
        leftovers += any(p.name.startswith(".tmp-") for p in folder.iterdir())
        check_consistent(checkpoint.load_latest(folder), at_least=published)
        step = checkpoint.load_latest(folder).meta["step"]
        checkpoint.save(
            folder, step + 1, example(), META, keep=3
        )  # and the folder works on
        assert checkpoint.latest(folder).name == f"step_{step + 1:08d}"
        assert not any(p.name.startswith(".tmp-") for p in folder.iterdir())
    assert leftovers > 0, "no kill hit a save: the test shows nothing"


def test_a_concurrent_reader_always_gets_a_whole_checkpoint(tmp_path, caplog):
    with start_writer(tmp_path) as writer:
        try:
            seen = int(writer.stdout.readline())
            deadline = time.monotonic() + 120
            reads = 0
            while reads < 30 or seen < 30:
                assert time.monotonic() < deadline
                found = checkpoint.load_latest(tmp_path)
                check_consistent(found, at_least=seen)
                seen = found.meta["step"]
                reads += 1
        finally:
            writer.kill()
    assert caplog.text == ""  # what was pruned under the reader is not damaged


def test_a_checkpoint_pruned_while_it_is_read_leads_to_a_newer_one(
    tmp_path, monkeypatch, caplog
):
    checkpoint.save(tmp_path, 1, example(), META, keep=3)
    load = checkpoint.load

    def slow_load(path, groups=None):
        if path.name.endswith("1"):
            checkpoint.save(tmp_path, 2, example(), META, keep=1)
        return load(path, groups)

    monkeypatch.setattr(checkpoint, "load", slow_load)
    assert checkpoint.load_latest(tmp_path).meta["step"] == 2
    assert caplog.text == ""


def test_a_full_disk_raises_and_leaves_the_earlier_checkpoint(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from energyflow_mlx.runs import checkpoint
import mlx.core as mx
folder = Path(sys.argv[1])
checkpoint.save(folder, 1, {"model.a": mx.ones(10)}, {}, keep=3)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(folder, 2, {"model.a": mx.ones(100_000)}, {}, keep=3)
except (OSError, RuntimeError) as error:
    print("refused:", error)
"""
    output = start_writer(tmp_path, code).communicate(timeout=60)[0]
    assert output.startswith("refused:"), output
    assert files_of(tmp_path) == ["step_00000001"]
    assert checkpoint.load_latest(tmp_path).meta["step"] == 1


def test_write_aside_keeps_the_old_file_when_the_body_raises(tmp_path):
    path = tmp_path / "new" / "file.json"
    with write_aside(path) as aside:
        aside.write_text("old")
    with pytest.raises(ZeroDivisionError), write_aside(path) as aside:
        aside.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    with write_aside(path) as aside:
        aside.write_text("newer")
    with path.open() as reader:
        with write_aside(path) as aside:
            aside.write_text("newest")
        assert reader.read() == "newer"  # whoever has it open keeps the old contents
    assert path.read_text() == "newest"
    assert files_of(path.parent) == ["file.json"]


# -- Matching --------------------------------------------------------------------------


def test_loaded_arrays_must_fit_the_trained_objects(tmp_path):
    expected = {"model.a": mx.zeros((2, 3)), "model.b": mx.zeros(3)}
    checkpoint.require_match(expected, dict(expected), "run")
    with pytest.raises(InputError, match=r"run: .*missing model\.b, unknown model\.c"):
        checkpoint.require_match(
            expected, {"model.a": mx.zeros((2, 3)), "model.c": mx.zeros(3)}, "run"
        )
    with pytest.raises(InputError, match=r"'model\.a' must be float32 \[2, 3\], got"):
        checkpoint.require_match(expected, expected | {"model.a": mx.zeros(1)}, "run")
    with pytest.raises(InputError, match="got float16"):
        half = {"model.b": mx.zeros(3, mx.float16)}
        checkpoint.require_match(expected, expected | half, "run")


def test_saving_from_one_thread_while_another_loads(tmp_path):
    checkpoint.save(tmp_path, 1, example(), META, keep=3)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(checkpoint.load_latest(tmp_path).meta["step"])
    )
    thread.start()
    checkpoint.save(tmp_path, 2, example(), META, keep=3)
    thread.join()
    assert results[0] in (1, 2)


def test_before_anything_was_measured_the_newest_is_the_best(tmp_path):
    progress = {"best_step": 0, "best_value": None}
    checkpoint.save(tmp_path, 4, example(1), progress, keep=3)
    assert checkpoint.load_best(tmp_path).path.name == "step_00000004"
    checkpoint.save(tmp_path, 6, example(2), {"best_step": 4, "best_value": 1}, keep=3)
    assert checkpoint.load_best(tmp_path).path.name == "step_00000004"

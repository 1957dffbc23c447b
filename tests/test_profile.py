"""The command that says where a run's time and memory go."""

import json

import mlx.core as mx
import mlx.nn as nn
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.profile import ProfileArgs, profile
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runtime import device
from energyflow_mlx.training.profiling import _each_layer_computed
from tests.commands import run_command

TINY = [
    *("data.captions=120", "data.buckets=[16,32]", "data.max_length=32"),
    *("encoder.dim=16", "encoder.hidden=16", "decoder.dim=16", "decoder.hidden=16"),
    *("encoder.embedding_init=normal", "decoder.embedding_init=normal"),
    *("trainer.max_steps=2", "trainer.micro_batch=8", "trainer.decode_samples=0"),
]


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run's files before, and what profiling it said and left."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    cache = f"teacher.cache_dir={tmp_path_factory.mktemp('cache')}"
    done = run_command("train", "+experiment=smoke", *TINY, f"run.dir={folder}", cache)
    assert done.returncode == 0, done.stderr
    before = contents(folder)
    done = run_command("profile", f"run={folder}", "updates=6")
    assert done.returncode == 0, done.stderr
    return folder, before, done.stdout


def test_the_run_itself_stays_as_it_is(profiled):
    folder, before, _ = profiled
    after = contents(folder)
    assert after.keys() - before.keys() == {"profile.json", "profile.txt"}
    assert all(after[name] == before[name] for name in before)


def test_the_report_says_time_of_host_parts_and_layers(profiled):
    report = json.loads((profiled[0] / "profile.json").read_text())
    assert report["updates"] == 6 and report["precision"] == "float32"
    for times in (report["step_ms"], report["one_at_a_time_ms"]):
        assert 0 < times["median"] <= times["p90"]
    assert report["samples_per_second"] == pytest.approx(
        8e3 / report["step_ms"]["median"]
    )
    assert report["host_ms"].keys() == {"batch", "build", "submit", "wait"}
    assert report["parts_ms"].keys() == {"distillation", "reconstruction"}
    for parts in report["parts_ms"].values():
        assert parts.keys() == {"forward", "loss", "gradient", "update"}
        assert min(parts.values()) > 0
    assert "encoder.blocks.0" in report["layers_ms"]["distillation"]
    assert "encoder.head" not in report["layers_ms"]["reconstruction"]


def test_the_report_says_traces_operations_and_memory(profiled):
    report = json.loads((profiled[0] / "profile.json").read_text())
    shapes = report["compiled"]["batches"]
    assert sum(shapes.values()) == 6 and set(shapes) <= {"8x16", "8x32"}
    traces = report["compiled"]["traces"]
    assert traces.keys() == {"distillation update", "reconstruction update"}
    assert max(traces.values()) <= 2
    for kinds in report["operations"].values():
        assert 1 < kinds["fused"] < kinds["all"] < 1500
        assert kinds["fills"] < 10 and len(kinds) > 5
    memory = report["memory_bytes"]
    assert memory["moments"] > memory["parameters"] > 1000
    assert memory["peak"] > memory["parameters"] + memory["moments"]


def test_people_read_the_same_in_the_terminal_and_in_the_text(profiled):
    folder, _, said = profiled
    text = (folder / "profile.txt").read_text()
    for words in ("update", "without overlap", "distillation: parts", "memory"):
        assert words in text and words in said


def test_bad_arguments_are_refused_before_any_work(profiled, tmp_path):
    with pytest.raises(InputError, match="updates must be >= 4, got 3"):
        profile(ProfileArgs(str(profiled[0]), updates=3))
    with pytest.raises(InputError, match="does not exist"):
        profile(ProfileArgs(str(tmp_path / "none")))


@pytest.mark.skipif("metal" in device.available(), reason="there is a Metal GPU")
def test_a_capture_without_metal_is_refused(profiled):
    with pytest.raises(InputError, match="capture must have a Metal GPU, got"):
        profile(ProfileArgs(str(profiled[0]), capture="x.gputrace"))


def test_a_capture_is_begun_and_ended_around_the_updates(monkeypatch, tmp_path):
    from energyflow_mlx import profile as command

    calls = []
    monkeypatch.setattr(device, "available", lambda: ("metal", "cpu"))
    monkeypatch.setattr(mx.metal, "start_capture", lambda path: calls.append(path))
    monkeypatch.setattr(mx.metal, "stop_capture", lambda: calls.append("stop"))
    path = tmp_path / "work.gputrace"
    with pytest.raises(InputError, match="MTL_CAPTURE_ENABLED=1"):
        command._check_capture(path)
    monkeypatch.setenv("MTL_CAPTURE_ENABLED", "1")
    with pytest.raises(InputError, match=r"new \.gputrace file, got"):
        command._check_capture(tmp_path / "work.txt")
    command._check_capture(path)
    with command._captured(path):
        calls.append("work")
    assert calls == [str(path), "work", "stop"]


def test_a_layer_is_charged_without_the_layers_inside_it():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(512, 512)

        def __call__(self, x):
            for _ in range(8):
                x = self.inner(x)
            return x + 1.0

    model, engine = Outer(), ReadbackEngine(debug=True)
    call = nn.Linear.__call__
    with engine.batch("layers"), _each_layer_computed(model, engine):
        model(mx.ones((256, 512)))
    assert nn.Linear.__call__ is call
    operations = engine.last_timing.operations
    inner = [o.wall_ms for o in operations if o.label == "inner"]
    (outer,) = [o.wall_ms for o in operations if o.label == "model"]
    assert len(inner) == 8 and outer < sum(inner)


def test_layers_inside_a_compiled_part_are_computed_one_by_one_too():
    """As the lattice compiles its step; and compiling goes on afterwards."""
    layer, engine = nn.Linear(4, 4), ReadbackEngine(debug=True)
    traced = []

    @mx.compile
    def part(x):
        traced.append(1)
        return layer(x)

    with engine.batch("layers"), _each_layer_computed(layer, engine):
        part(mx.ones((2, 4)))
    assert [o.label for o in engine.last_timing.operations] == ["model"]
    traced.clear()
    for _ in range(3):
        part(mx.ones((2, 4)))
    assert len(traced) <= 1

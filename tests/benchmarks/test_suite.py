"""The suite of benchmarks: what it runs, keeps, compares, shows and refuses."""

import importlib
import json
import re
import subprocess
import sys

import mlx.core as mx
import pytest

from benchmarks.suite import draw, machine
from benchmarks.suite.__main__ import kept, suite
from benchmarks.suite.compare import ALLOWED, compared, judge, table
from benchmarks.suite.entries import CHECKOUT, ENTRIES, MOST_SECONDS, Entry, chosen
from benchmarks.suite.running import figures_of, judged, run
from energyflow_mlx.errors import InputError

SCRIPTS = CHECKOUT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a module of benchmarks/ by name, as its neighbors do."""
    for folder in (SCRIPTS / "ops", SCRIPTS):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


def command(*words):
    return subprocess.run(
        [sys.executable, *words], cwd=CHECKOUT, capture_output=True, text=True
    )


# -- what runs ------------------------------------------------------------------------


def test_every_bench_script_is_in_the_suite():
    found = {str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("bench_*.py")}
    assert {entry.script for entry in ENTRIES} == found


def test_the_limits_together_bound_the_whole_suite():
    assert sum(entry.limit_s for entry in ENTRIES) <= MOST_SECONDS == 600
    assert all(entry.limit_s > 0 for entry in ENTRIES)


def test_names_are_distinct_and_choose_in_the_suites_order():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert [e.name for e in chosen(["gelu", "blas"])] == ["blas", "gelu"]
    assert chosen([]) == list(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_short_form_takes_only_options_its_script_has(entry):
    source = (SCRIPTS / entry.script).read_text(encoding="utf-8")
    source += (SCRIPTS / "ops" / "timing.py").read_text(encoding="utf-8")
    for word in entry.words:
        assert not word.startswith("--") or f'"{word}"' in source, word


# -- running one ----------------------------------------------------------------------


def test_a_benchmark_past_its_limit_is_ended_and_failed():
    found = run(Entry("bench_data.py", (), 0))
    assert (found.status, found.figures) == ("failed", {})
    assert found.note == "not done within 0 s"


def test_a_benchmark_may_use_what_earlier_ones_left_of_their_limits():
    entry = Entry("bench_teacher.py", ("--data", "nowhere"), 0)
    assert run(entry).status == "failed"
    assert run(entry, 100).status == "cannot run"


def test_a_wrong_option_is_a_failure_that_says_why():
    found = run(Entry("bench_data.py", ("--nonsense",), 60))
    assert found.status == "failed"
    assert "unrecognized arguments: --nonsense" in found.note


def test_figures_of_a_refuted_claim_are_kept():
    line = json.dumps({"figures": {"a": {"unit": "ms", "spread": [1, 2, 3]}}})
    found = judged(1, f"table\n{line}\n", "noise\nnot faster here\n", 1.0)
    assert (found.status, found.note) == ("refuted", "not faster here")
    assert found.figures == {"a": {"unit": "ms", "spread": [1, 2, 3]}}


def test_what_cannot_run_here_says_so():
    found = judged(0, '{"op": "x", "cannot_run": "no GPU"}\n', "", 1.0)
    assert (found.status, found.note) == ("cannot run", "no GPU")


def test_the_teacher_without_its_vectors_cannot_run(tmp_path):
    entry = Entry("bench_teacher.py", ("--data", str(tmp_path)), 60)
    assert run(entry).status == "cannot run"


def test_a_candidates_times_are_figures():
    result = {
        "op": "gelu",
        "mode": "forward",
        "shape": "N2",
        "dtype": "float32",
        "milliseconds": {"cpu": [1, 2, 3], "plain": [4, 5, 6]},
    }
    figure = {"unit": "ms", "spread": [1, 2, 3]}
    assert figures_of({"results": [result]}) == {"forward N2 float32": figure}
    two = figures_of({"results": [result, {**result, "op": "other"}]})
    assert list(two) == ["gelu forward N2 float32", "other forward N2 float32"]


# -- the rule -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "now", "stored", "verdict"),
    [
        ("ms", [1.2, 1.25, 1.3], [0.9, 1.0, 1.1], "SLOWER"),
        ("ms", [1.05, 1.25, 1.3], [0.9, 1.0, 1.1], ""),  # the spreads touch
        ("ms", [1.12, 1.13, 1.14], [0.99, 1.0, 1.01], ""),  # under 15 %
        ("ms", [0.7, 0.75, 0.8], [0.9, 1.0, 1.1], "better"),
        ("sentences/s", [70, 75, 80], [90, 100, 110], "SLOWER"),
        ("sentences/s", [120, 130, 140], [90, 100, 110], "better"),
        ("sentences/s", [80, 90, 95], [90, 100, 110], ""),
        ("bytes", [130, 130, 130], [100, 100, 100], "SLOWER"),
        ("count", [1, 1, 1], [0, 0, 0], "SLOWER"),
        ("count", [0, 0, 0], [0, 0, 0], ""),
    ],
)
def test_slower_is_beyond_both_spreads_and_the_allowance(unit, now, stored, verdict):
    assert judge(unit, now, stored)[1] == verdict
    assert ALLOWED == 1.15


def test_the_ratio_is_of_costs_whatever_the_unit():
    assert judge("ms", [2, 2, 2], [1, 1, 1])[0] == 2
    assert judge("steps/s", [1, 1, 1], [2, 2, 2])[0] == 2


def figure(unit, *spread):
    return {"unit": unit, "spread": list(spread)}


def test_rows_say_what_is_new_and_what_is_gone():
    now = {"a": figure("ms", 1, 1, 1), "b": figure("s", 1, 1, 1)}
    before = {"a": figure("ms", 1, 1, 1), "b": figure("ms", 1, 1, 1)}
    before["c"] = figure("ms", 1, 1, 1)
    found = {row.name: row.verdict for row in compared("x", now, before)}
    assert found == {"a": "", "b": "new", "c": "gone"}
    assert [row.verdict for row in compared("x", now, None)] == ["new", "new"]


def test_the_table_shows_figure_now_stored_ratio_and_verdict():
    now = {"step": figure("ms", 19, 20, 21), "memory": figure("bytes", *[3 << 20] * 3)}
    before = {"step": figure("ms", 9, 10, 11)}
    text = table(compared("training", now, before))
    assert re.search(r"step +20 ms ± +5% +10 ms +2\.00 +SLOWER$", text, re.M)
    assert re.search(r"memory +3 MiB +new$", text, re.M)
    assert "figure" in text.splitlines()[0] and "\ntraining\n" in text


# -- the machine and its file ---------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name", "expected"),
    [
        ("cpu", "Intel(R) Xeon(R) Processor", "cpu_2_intel_xeon"),
        ("cuda", "NVIDIA H200", "cuda_nvidia_h200"),
        ("metal", "Apple M2 Max", "metal_apple_m2_max"),
    ],
)
def test_a_kind_of_machine_is_backend_device_and_a_cpus_cores(backend, name, expected):
    assert machine.kind({"backend": backend, "device": name, "cores": 2}) == expected


@pytest.mark.parametrize("text", ["no json", "[]", '{"stored": {}}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    path = tmp_path / "suite.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a JSON record"):
        machine.read(path)


def test_a_record_is_read_as_written(tmp_path):
    path, record = tmp_path / "a.json", {"stored": {"x": {"n": 1}}, "latest": {}}
    machine.write(path, {"backend": "cpu"}, record)
    assert machine.read(path) == record
    assert json.loads(path.read_text())["machine"] == {"backend": "cpu"}
    assert machine.read(tmp_path / "none.json") == {"stored": {}, "latest": {}}


def test_storing_keeps_the_stored_runs_of_others_and_of_what_failed():
    before = {"stored": {"a": {"n": 1}, "b": {"n": 1}, "c": {"n": 1}}, "latest": {}}
    latest = {"a": {"n": 2, "status": "done"}, "b": {"n": 2, "status": "failed"}}
    found = kept(before, latest, store=True)
    numbers = {name: run["n"] for name, run in found["stored"].items()}
    assert numbers == {"a": 2, "b": 1, "c": 1}
    assert found["latest"] == {}
    again = kept(before, latest, store=False)
    assert again == {"stored": before["stored"], "latest": latest}


# -- the whole ------------------------------------------------------------------------


def scaled(path, factor):
    """Multiply every stored figure."""
    record = json.loads(path.read_text())
    for entry in record["stored"].values():
        for found in entry["figures"].values():
            found["spread"] = [factor * value for value in found["spread"]]
    path.write_text(json.dumps(record))


def test_a_run_is_stored_compared_and_strict_about_what_is_slower(tmp_path, capsys):
    words = ["--results", str(tmp_path), "--patience", "20", "--only"]
    assert suite([*words, "blas", "layer_norm", "--store"]) == 0
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert set(record["stored"]) == {"blas", "layer_norm"} and not record["latest"]
    entry = record["stored"]["blas"]
    assert entry["command"] == "python benchmarks/bench_blas.py"
    assert {"commit", "date", "mlx", "seconds", "status"} <= entry.keys()
    assert {"cores", "device", "blas", "numpy"} <= record["machine"].keys()

    scaled(path, 100)  # GFLOP/s: as if it had been a hundred times as fast
    assert suite([*words, "blas", "--strict"]) == 1
    assert "SLOWER" in capsys.readouterr().out
    again = json.loads(path.read_text())
    assert set(again["latest"]) == {"blas"}
    assert set(again["stored"]) == {"blas", "layer_norm"}


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "nonsense"],
        ["--sotre"],
        ["blas"],
        ["--only"],
        ["--patience", "0"],
    ],
)
def test_a_wrong_word_is_refused(words):
    done = command("-m", "benchmarks.suite", *words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("python -m benchmarks.suite: error:")


def test_a_damaged_record_ends_the_command_in_one_line(tmp_path):
    path = machine.stored_file(machine.describe(), tmp_path)
    path.write_text("broken")
    words = ("--only", "blas", "--results", str(tmp_path))
    done = command("-m", "benchmarks.suite", *words)
    assert (done.returncode, path.read_text()) == (2, "broken")
    assert re.fullmatch(r"error: \[suite\] .*\n", done.stderr)


def test_it_lists_what_would_run():
    done = command("-m", "benchmarks.suite", "--list")
    assert done.returncode == 0
    assert all(entry.command in done.stdout for entry in ENTRIES)


# -- pictures -------------------------------------------------------------------------


def test_lines_run_along_one_size_at_the_usual_other():
    points = {case: [1, 1, 1] for case in [(16, 8, 384), (64, 8, 384), (64, 24, 128)]}
    points |= {case: [1, 1, 1] for case in [(16, 24, 384), (64, 24, 384)]}
    assert {
        key: [where for where, _ in line]
        for key, line in draw.lines(points, 0, 1).items()
    } == {8: [16, 64], 24: [16, 64]}
    width = draw.lines(points, 2, 1)
    assert [where for where, _ in width[24]] == [128, 384]


def test_a_record_is_drawn_beside_itself(tmp_path, capsys):
    names = [f"update B{b} L{n} D384" for b in (16, 64) for n in (8, 24)]
    rates = {name: figure("sentences/s", 90, 100, 110) for name in names}
    rates["lattice of 100 flows"] = figure("flows/s", 90, 100, 110)
    quality = {"cosine 0.5": figure("s", 1, 1, 1), "cosine 0.6": figure("s", 2, 2, 2)}
    step = {"distillation B64 float32": figure("steps/s", 9, 10, 11)}
    runs = {"throughput": rates, "quality": quality, "step": step}
    record = {"stored": {n: {"figures": f} for n, f in runs.items()}, "latest": {}}
    path = tmp_path / "suite_x.json"
    machine.write(path, machine.describe(), record)
    draw.main([str(path)])
    assert (tmp_path / "suite_x.png").read_bytes().startswith(b"\x89PNG")
    assert "suite_x.png" in capsys.readouterr().out


def test_curves_of_devices_are_drawn(tmp_path):
    curves = {"cpu": {"A": [2.0, 1.0], "B": [3.0, 2.0]}}
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"losses": {**curves, "cuda": curves["cpu"]}}))
    draw.main(["--curves", str(path)])
    assert (tmp_path / "curves.png").exists()


def test_a_missing_record_is_not_drawn(tmp_path):
    with pytest.raises(InputError, match="there must be a record"):
        draw.main([str(tmp_path / "none.json")])


# -- fills of a graph, and trainings on devices ---------------------------------------


def test_fills_that_a_graph_uses_are_found_with_their_shapes(script):
    fills = script("graph_fills")
    x = mx.ones((4, 8))
    mx.eval(x)

    def build():
        mx.zeros((100,))  # nothing uses it
        return [(x + mx.zeros((4, 8))) @ mx.full((8, 2), 3.0)]

    shapes, of_gradients = fills.fills_of(build)
    assert (dict(shapes), of_gradients) == ({(4, 8): 1, (8, 2): 1}, 0)
    assert fills.large(shapes, 17) == 1


def test_fills_that_a_gradient_makes_are_counted(script):
    fills = script("graph_fills")
    x = mx.ones((64, 8))
    mx.eval(x)
    gradient = mx.grad(lambda x: (x[:2] ** 2).sum())
    shapes, of_gradients = fills.fills_of(lambda: [gradient(x)])
    assert (dict(shapes), of_gradients) == ({}, 1)


def test_a_training_on_a_device_learns_and_repeats_itself(script):
    small = script("small_training")
    first, again = (small.linear_regression().run(30) for _ in range(2))
    assert first == again
    assert first[-1] < first[0] / 2
    losses = small.encoder(4).run(6)
    assert losses[-1] < losses[0]


def test_curves_of_devices_need_mlx_numpy_and_tokenizers_alone():
    others = ("hydra", "omegaconf", "rich", "matplotlib", "sacrebleu")
    blocked = f"import sys; sys.modules |= dict.fromkeys({others})"
    path = "sys.path[:0] = ['benchmarks', 'benchmarks/ops']"
    done = command("-c", f"{blocked}; {path}; import device_curves, bench_training")
    assert done.returncode == 0, done.stderr


def test_curves_are_compared_as_shares_of_the_first_loss(script):
    curves = script("device_curves")
    found = curves.differences(
        {"cpu": {"A": [2.0, 1.0, 0.1]}, "cuda": {"A": [2.0, 1.1, 0.1]}}
    )
    assert found == {"A, cuda": pytest.approx(0.05)}
    assert curves.differences({"cpu": {"A": [1.0]}}) == {}

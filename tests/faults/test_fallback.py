"""Any whole checkpoint serves, and results that are damaged are made again."""

import json
import logging
import random
import shutil

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx import load
from energyflow_mlx.errors import InputError
from energyflow_mlx.plots import read_facts
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from energyflow_mlx.runs.samples import read_samples
from energyflow_mlx.runs.sweep import SweepFolder
from energyflow_mlx.runs.trackers import TrackedLog, TrackedRun
from energyflow_mlx.runtime.signed_json import read_signed, write_signed
from tests.commands import run_command
from tests.faults.test_start import SMALL, final_arrays

# Nothing after the first validation is better by ten: update 2 stays the best.
LASTING = ["trainer.max_steps=8", "trainer.min_delta=10", "trackers=[csv]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 8 updates with checkpoints 2 (the best), 6 and 8, and its command."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    words = [*SMALL, *LASTING, f"teacher.cache_dir={folder.parent / 'cache'}"]
    done = run_command("train", *words, f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert RunFolder(folder).steps() == [2, 6, 8]
    return folder, words


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that may be damaged."""
    shutil.copytree(trained[0], tmp_path / "run")
    return RunFolder(tmp_path / "run")


def damage(run, *steps):
    """Change one bit of the weights of these checkpoints."""
    for step in steps:
        file = run.checkpoints / f"step_{step:08d}" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-5] ^= 4
        file.write_bytes(data)


def train(run, words):
    return run_command("train", *words, f"run.dir={run.path}")


# -- Checkpoints -----------------------------------------------------------------------


def test_the_newest_checkpoint_serves_where_the_best_is_damaged(run, caplog):
    assert load(run.path).record.step == 2 and not caplog.records
    damage(run, 2)
    assert load(run.path).record.step == 8
    (said,) = [record.getMessage() for record in caplog.records]
    best, newest = (f"{run.checkpoints}/step_{n:08d}" for n in (2, 8))
    assert f"{best}/model.safetensors: must have sha256" in said
    assert said.endswith(f"; {newest} is used instead") and "\n" not in said


def test_the_newest_checkpoint_serves_where_the_best_is_gone(run, caplog):
    shutil.rmtree(run.checkpoints / "step_00000002")
    assert load(run.path).record.step == 8
    assert len(caplog.records) == 1 and "step_00000002" in caplog.text


def test_the_best_one_is_found_without_the_newest(run, caplog):
    damage(run, 8)
    assert load(run.path).record.step == 2
    assert len(caplog.records) == 1 and "step_00000008/model" in caplog.text
    damage(run, 2)
    assert load(run.path).record.step == 6
    assert len(caplog.records) == 2
    assert "and 1 more damaged; " in caplog.records[1].getMessage()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("encode", ["input={0}/in.txt", "output={0}/out.npy"]),
        ("decode", ["input={0}/in.npy", "output={0}/out.txt", "max_length=3"]),
        ("evaluate", []),
        ("export", ["output={0}/out.efop1"]),
    ],
)
def test_a_command_works_on_and_warns_once(run, tmp_path, command, words):
    damage(run, 2)
    optimizer = run.checkpoints / "step_00000002" / "optimizer.safetensors"
    optimizer.write_bytes(b"")
    (tmp_path / "in.txt").write_text("A dog runs.\n")
    np.save(tmp_path / "in.npy", np.eye(384, dtype=np.float32)[:1])
    words = [word.format(tmp_path) for word in words]
    done = run_command(command, f"run={run.path}", *words)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "step_" in line]
    assert "step_00000002" in line and "step_00000008 is used instead" in line


def test_a_run_without_any_whole_checkpoint_is_refused_in_one_line(run, trained):
    damage(run, 2, 6, 8)
    with pytest.raises(
        InputError, match="must hold a whole checkpoint, got: .* 2 more"
    ):
        load(run.path)
    run.summary.unlink()
    done = train(run, trained[1])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "must hold a whole checkpoint" in line
    assert run.steps() == [2, 6, 8]


def test_the_end_of_training_measures_what_load_will_take(run, trained):
    damage(run, 2)
    run.summary.unlink()
    done = train(run, trained[1])
    assert done.returncode == 0, done.stderr
    summary = run.read_summary()
    assert summary["best"]["step"] == 2 and summary["final_step"] == 8
    assert "update 8: the best, 2, is damaged" in done.stdout
    assert load(run.path).record.step == 8


def test_a_resume_from_an_older_checkpoint_ends_with_the_same_bits(run, trained):
    damage(run, 8)
    run.summary.unlink()
    done = train(run, trained[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is used instead") == 1
    ours, theirs = final_arrays(run.path), final_arrays(trained[0])
    assert all(np.array_equal(ours[k], theirs[k]) for k in theirs)
    assert run.read_summary()["final"] == RunFolder(trained[0]).read_summary()["final"]


def save(folder, step, best, **settings):
    arrays = {"model.a": mx.full((2,), float(step))}
    meta = {"best_step": best, "best_value": 0.5}
    checkpoint.save(
        folder, step, arrays, meta, **{"keep": 1, "protect": {best}} | settings
    )


def test_what_a_kept_checkpoint_names_as_the_best_stays_with_it(tmp_path):
    """Of the newest alone the second best would be gone by then."""
    for step, best in ((2, 2), (4, 2), (6, 2), (8, 8)):
        save(tmp_path, step, best, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 6, 8]
    (tmp_path / "step_00000008" / "checkpoint.json").write_text("")
    assert checkpoint.load_best(tmp_path, (MODEL,)).meta["step"] == 2
    save(tmp_path, 10, 8, keep=2)
    assert checkpoint.steps(tmp_path) == [8, 10], "nothing needs it any more"


def test_what_a_killed_save_left_to_do_is_done_when_the_run_goes_on(run, trained):
    """Killed before pruning; and between the two renames of a replacement."""
    shutil.copytree(
        run.checkpoints / "step_00000006", run.checkpoints / "step_00000004"
    )
    rename_header(run.checkpoints / "step_00000004", 4)
    (run.checkpoints / "step_00000008").rename(run.checkpoints / "step_00000008~")
    (run.checkpoints / ".tmp-removed-step_00000002-1").mkdir()
    (run.path / ".tmp-1-metrics.jsonl").touch()
    run.summary.unlink()
    assert train(run, trained[1]).returncode == 0
    names = {path.name for path in run.checkpoints.iterdir()}
    assert names == {f"step_{n:08d}" for n in (2, 6, 8)}
    assert not list(run.path.glob(".tmp-*"))


def rename_header(path, step):
    header = read_signed(path / "checkpoint.json")
    write_signed(path / "checkpoint.json", header | {"step": step})


def test_a_damaged_replacement_does_not_cost_what_it_replaced(tmp_path):
    save(tmp_path, 4, 4)
    (tmp_path / "step_00000004").rename(tmp_path / "step_00000004~")
    shutil.copytree(tmp_path / "step_00000004~", tmp_path / "step_00000004")
    (tmp_path / "step_00000004" / "model.safetensors").write_bytes(b"")
    checkpoint.prune(tmp_path, 4, keep=1)
    assert checkpoint.load_latest(tmp_path).path.name == "step_00000004~"


# -- Results and settings --------------------------------------------------------------

DAMAGES = [
    '{"status": "fin',
    "[1]",
    "",
    "{}",
    '{"status": "finished"}',
    "\xff",
    "[" * 9999,
]


@pytest.mark.parametrize("text", DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_summary_is_named_once_and_left_out(run, caplog, text):
    run.summary.write_text(text, encoding="latin-1")
    assert run.read_summary() == {}
    assert len(caplog.records) == (text != "{}")
    assert read_facts(run).figures == {}
    (job,) = SweepFolder(run.path).jobs()
    assert job["status"] in ("unreadable", "unfinished", "finished")


def test_a_run_with_a_damaged_summary_ends_once_more(run, trained):
    expected = run.read_summary()
    run.summary.write_text("{")
    done = train(run, trained[1])
    assert done.returncode == 0, done.stderr
    assert "summary.json: not readable JSON" in done.stdout
    found = run.read_summary()
    assert found["final"] == expected["final"] and found["best"] == expected["best"]


def test_damaged_results_stop_no_picture(run):
    for file in (run.summary, run.evaluation):
        file.write_text("{")
    run.samples.write_text('{"step": 2}\n{"step": 2, "path": 3}\n')
    done = run_command("plot", f"run={run.path}")
    assert done.returncode == 0, done.stderr
    for name in (run.summary.name, run.evaluation.name, "record 1 is no sample"):
        assert done.stderr.count(name) == 1, done.stderr


def test_an_outcome_of_a_sweep_that_is_damaged_is_a_row(tmp_path):
    sweep = SweepFolder(tmp_path)
    for job in ("0", "1"):
        sweep.note(job, "refused", ["seed=1"], "because")
    (sweep.outcomes / "1.json").write_text("{")
    first, second = sweep.jobs()
    assert first["status"] == "refused" and second["status"] == "unreadable"
    assert "1.json: not readable JSON" in second["reason"]


def test_samples_that_are_none_are_left_out_and_the_first_is_named(run, caplog):
    whole = read_samples(run.samples)
    assert whole and not caplog.records
    with MetricsLog(run.samples) as log:
        for record in ({"step": 2}, whole[0] | {"cosine": "high"}, whole[0]):
            log.write(record)
    assert read_samples(run.samples) == [*whole, whole[0]]
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"record {len(whole) + 1} is no sample" in said and "2 in all" in said


def test_trackers_whose_state_is_damaged_are_filled_anew(run, caplog, tmp_path):
    before = (run.trackers / "metrics.csv").read_bytes()
    run.trackers_state.write_text("{")
    tracked = TrackedRun(run.trackers, "run", "project", {})
    with TrackedLog(run.metrics, run.trackers_state, tracked, ["csv"]) as log:
        log.truncate_after(8)
    assert "the trackers are filled anew" in caplog.text
    assert (run.trackers / "metrics.csv").read_bytes() == before
    assert list(read_signed(run.trackers_state)) == ["csv"]


def flips(path, count):
    """The file with one bit changed, at as many places; whole again afterwards."""
    rng, data = random.Random(7), path.read_bytes()
    for place in rng.sample(range(len(data)), count):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        yield place
    path.write_bytes(data)


def test_a_flipped_bit_of_the_settings_is_never_believed(run, caplog):
    expected, refused = run.read_config(), 0
    for place in flips(run.config, 400):
        try:
            assert run.read_config() == expected, place
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 250  # white space may change


@pytest.mark.parametrize("name", ["summary", "evaluation"])
def test_a_flipped_bit_of_a_result_is_never_believed(run, caplog, name):
    caplog.set_level(logging.CRITICAL)
    if name == "evaluation":
        run.write_evaluation({"cosine": 0.5, "details": {"sts": {"a": [1.0, 2.0]}}})
    read = getattr(run, f"read_{name}")
    expected, left_out = read(), 0
    for place in flips(getattr(run, name), 100):
        found = read()
        left_out += not found
        assert not found or found == expected, place
    assert left_out > 50


def test_who_edits_settings_is_told_what_to_take_out(run):
    values = json.loads(run.config.read_text())
    values["trainer"]["log_every"] = 3
    run.config.write_text(json.dumps(values))
    with pytest.raises(InputError, match="who edits it takes the line sha256 out"):
        load(run.path)
    del values["sha256"]
    run.config.write_text(json.dumps(values))
    assert load(run.path).record.step == 2

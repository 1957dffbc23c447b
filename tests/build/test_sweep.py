"""Sweeps from the command line: what fails is a row, what is left is done later."""

import importlib.util
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx.build.sweep import require_launcher, run_job
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.sweep import SweepFolder
from tests.commands import CHECKOUT, run_command

SMALL = [
    *("+experiment=smoke", "data.captions=150", "trainer.max_steps=4"),
    *("trainer.decode_samples=0", "trainer.micro_batch=8", "trainer.compile=false"),
    *("tokenizer.kind=bpe", "tokenizer.bpe_size=300"),
    *("encoder.embedding_init=normal", "decoder.embedding_init=normal"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return [*SMALL, f"teacher.cache_dir={tmp_path_factory.mktemp('cache')}"]


def rows(folder):
    return json.loads((folder / "sweep.json").read_text())


def statuses(folder):
    return [job["status"] for job in rows(folder)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, small):
    """A value that is refused, one that diverges, one that is good."""
    folder = tmp_path_factory.mktemp("sweeps") / "lr"
    words = ["-m", *small, "optimizer.lr=-1,10,1e-3", f"run.dir={folder}"]
    return folder, words, run_command("train", *words)


def test_a_refused_and_a_diverged_job_are_rows_and_the_third_finishes(swept):
    folder, _, done = swept
    assert done.returncode == 1, done.stderr
    assert statuses(folder) == ["refused", "diverged", "finished"]
    refused, diverged, finished = rows(folder)
    assert refused["reason"] == ("[config] optimizer.lr must be > 0, got -1.0.")
    assert "must be finite" in diverged["reason"]
    assert finished["final"]["cosine"] > -1 and finished["reason"] == ""
    assert "2 of 3 jobs did not finish" in done.stderr
    table = done.stdout[done.stdout.index("Sweep ") :]
    assert max(map(len, table.splitlines()[1:])) <= 80
    assert not (folder / "0").exists()


def test_the_same_command_does_not_redo_what_has_finished(swept):
    folder, words, _ = swept
    before = (folder / "2" / "metrics.jsonl").read_bytes()
    again = run_command("train", *words)
    assert again.returncode == 1
    assert statuses(folder) == ["refused", "diverged", "finished"]
    assert (folder / "2" / "metrics.jsonl").read_bytes() == before


def test_a_sweep_over_the_rate_of_one_objective_finishes_with_status_0(small, tmp_path):
    key = "objectives.distillation.lr"
    done = run_command("train", "-m", *small, f"{key}=1e-3,2e-3", f"run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert [job["overrides"][key] for job in rows(tmp_path)] == ["0.001", "0.002"]
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in "01"]
    assert [c["objectives"]["distillation"]["lr"] for c in configs] == [1e-3, 2e-3]
    assert not list((tmp_path / "outcomes").iterdir())


# A sweep that gets a signal with the first record of its first job.
TOLD = """
import os
from energyflow_mlx import train
from energyflow_mlx.runs.metrics import MetricsLog

write = MetricsLog.write

def write_and_tell(self, record):
    write(self, record)
    MetricsLog.write = write
    os.kill(os.getpid(), {number})

MetricsLog.write = write_and_tell
train.main()
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_an_interrupted_sweep_is_finished_by_the_same_command(number, small, tmp_path):
    words = ["-m", *small, "optimizer.lr=1e-3,2e-3", f"run.dir={tmp_path}"]
    told = subprocess.run(
        [sys.executable, "-c", TOLD.format(number=int(number)), *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 128 + number, told.stderr
    assert run_command("sweep_report", f"run={tmp_path}").returncode == 0
    assert statuses(tmp_path) == ["interrupted"]
    assert run_command("train", *words).returncode == 0
    assert statuses(tmp_path) == ["finished", "finished"]
    assert rows(tmp_path)[0]["steps"] == 4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a word"), "refused"),
        (FloatingPointError("a number"), "diverged"),
        (OSError(28, "No space left on device"), "failed"),
        (MemoryError(), "failed"),
    ],
)
def test_how_a_job_ended_is_kept_with_its_line(error, status, tmp_path):
    def train():
        raise error

    sweep = SweepFolder(tmp_path)
    assert np.isnan(run_job(sweep, "3", ["a=1"], train))
    (job,) = sweep.jobs()
    assert (job["job"], job["status"], job["overrides"]) == ("3", status, {"a": "1"})
    assert job["reason"] == (str(error) or "MemoryError")


def test_a_job_that_had_no_room_on_the_device_says_what_takes_less(tmp_path, caplog):
    def train():
        raise RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory")

    sweep = SweepFolder(tmp_path)
    assert np.isnan(run_job(sweep, "3", ["a=1"], train))
    assert "trainer.micro_batch" in sweep.jobs()[0]["reason"]
    assert not caplog.records  # nor a traceback


def test_a_job_that_is_killed_is_unfinished(tmp_path):
    sweep, seen = SweepFolder(tmp_path), []

    def train():
        seen.extend(job["status"] for job in sweep.jobs())
        return {"best": {"cosine": 0.5, "step": 1}}

    assert run_job(sweep, "0", [], train) == 0.5
    assert seen == ["unfinished"]
    with pytest.raises(InputError, match="must hold run folders"):
        sweep.jobs()


def test_a_mistake_of_ours_is_not_taken_for_a_failed_job(tmp_path):
    def train():
        raise TypeError("ours")

    with pytest.raises(TypeError):
        run_job(SweepFolder(tmp_path), "0", [], train)


# Optuna and joblib -------------------------------------------------------------------


def need(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the extra sweep: {module} is not installed")


def launcher_is_there():
    need("hydra_plugins")
    need("hydra_plugins.hydra_joblib_launcher")


def study_words(small, folder, trials):
    return [
        *("-m", *small, "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}"),
        *("optimizer.lr=tag(log,interval(1e-4,1e-2))", "share=none,last"),
        *("hydra.sweeper.n_jobs=2", f"run.dir={folder}"),
    ]


def test_optuna_chooses_and_goes_on_with_its_study(small, tmp_path):
    need("optuna")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run_command("train", *study_words(small, whole, 3))
    assert done.returncode == 0, done.stderr
    assert "best: job " in done.stdout
    first = run_command("train", *study_words(small, parts, 1))
    assert first.returncode == 0, first.stderr
    log = (parts / "0" / "metrics.jsonl").read_bytes()
    assert run_command("train", *study_words(small, parts, 3)).returncode == 0
    assert (parts / "0" / "metrics.jsonl").read_bytes() == log
    chosen = [[job["overrides"] for job in rows(folder)] for folder in (whole, parts)]
    for overrides in chosen:
        for one in overrides:
            assert 1e-4 <= float(one["optimizer.lr"]) <= 1e-2
            assert one.pop("share") in ("none", "last")
            del one["run.dir"]
    assert len(chosen[0]) == 3 and chosen[0] == chosen[1]
    assert len({one["optimizer.lr"] for one in chosen[0]}) == 3
    study = open_study(whole)
    figures = [job["best"]["cosine"] for job in rows(whole)]
    assert [trial.value for trial in study.trials] == pytest.approx(figures)
    assert study.best_trial.number == int(np.argmax(figures))


def open_study(folder):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = str(SweepFolder(folder).study)
    return optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(path))
    )


def test_a_trial_that_is_refused_is_tried_again_and_the_metric_says_the_direction(
    small, tmp_path
):
    need("optuna")
    words = ["-m", *small, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"]
    words += [
        "trainer.best_metric=ce",
        "data.train=late.txt",
        "seed=int(interval(1,9))",
    ]
    words.append(f"run.dir={tmp_path / 'sweep'}")
    late = tmp_path / "late.txt"
    words = [word.replace("late.txt", str(late)) for word in words]
    done = run_command("train", *words)
    assert done.returncode == 1 and "late.txt" in done.stderr
    lines = [f"A dog number {n} runs on the beach." for n in range(60)]
    late.write_text("\n".join(lines), encoding="utf-8")
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    (job,) = rows(tmp_path / "sweep")
    (trial,) = open_study(tmp_path / "sweep").trials
    assert trial.value == pytest.approx(job["best"]["ce"])
    assert open_study(tmp_path / "sweep").direction.name == "MINIMIZE"
    words[words.index("trainer.best_metric=ce")] = "trainer.best_metric=cosine"
    other = run_command("train", *words)
    assert other.returncode == 2 and "belongs to another sweep" in other.stderr


def test_jobs_run_in_parallel_with_the_same_rows(swept, small, tmp_path):
    launcher_is_there()
    words = ["-m", *small, "optimizer.lr=-1,10,1e-3", "hydra/launcher=joblib"]
    words += ["hydra.launcher.n_jobs=2", f"run.dir={tmp_path}"]
    done = run_command("train", *words)
    assert done.returncode == 1, done.stderr
    assert statuses(tmp_path) == ["refused", "diverged", "finished"]
    one, two = (f[2]["final"] for f in (rows(tmp_path), rows(swept[0])))
    assert one == pytest.approx(two)


def test_a_missing_launcher_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr("energyflow_mlx.build.sweep.distributions", lambda name: [])
    require_launcher(["-m"])
    with pytest.raises(InputError, match=r"pip install 'energyflow-mlx\[sweep\]'"):
        require_launcher(["-m", "hydra/launcher=joblib"])

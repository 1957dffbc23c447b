"""The table of a sweep's jobs: printed, and saved beside them."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.sweep import SweepFolder
from energyflow_mlx.sweep_report import (
    SweepReportArgs,
    report,
    show,
    sweep_report,
    table_of,
)
from tests.commands import run_command


def write_job(folder, overrides, final, status="finished"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    summary = {
        "name": "run",
        "status": status,
        "steps": 100,
        "epochs": 2.0,
        "seconds": 12.5,
        "samples": 6400,
        "best": {"cosine": 0.9, "step": 80},
        "final": final,
        "parameters": {"encoder": 10},
        "backend": "cpu",
        "overrides": overrides,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def sweep(tmp_path):
    for job in range(11):
        overrides = ["+experiment=smoke", f"optimizer.lr={job}e-3", "seed=1"]
        write_job(tmp_path / str(job), overrides, {"cosine": job / 10, "ce": 2.0})
    (tmp_path / "10" / "tokenizer").mkdir()
    (tmp_path / "10" / "tokenizer" / "config.json").write_text("{}")
    return tmp_path


def test_jobs_come_in_natural_order_with_what_they_differ_in(sweep):
    jobs = report(sweep)
    assert [job["job"] for job in jobs] == [str(n) for n in range(11)]
    assert jobs[3]["overrides"] == {
        "experiment": "smoke",
        "optimizer.lr": "3e-3",
        "seed": "1",
    }
    columns, rows = table_of(jobs)
    assert columns == [
        *("job", "optimizer.lr", "status", "steps", "seconds", "cosine", "ce"),
        "reason",
    ]
    assert rows[3] == ["3", "3e-3", "finished", 100, 12.5, 0.3, 2.0, None]


def test_json_and_markdown_are_written_beside(sweep):
    jobs = report(sweep)
    assert json.loads((sweep / "sweep.json").read_text()) == jobs
    lines = (sweep / "sweep.md").read_text().splitlines()
    assert lines[0].startswith("| job | optimizer.lr | status |")
    assert lines[2].startswith("| 0 | 0e-3 | finished | 100 | 12.50 | 0 |")
    assert len(lines) == 13
    assert report(sweep) == jobs  # its own files do not disturb it


def test_unfinished_and_damaged_jobs_stay_in_the_table(sweep):
    (sweep / "2" / "summary.json").unlink()
    (sweep / "4" / "summary.json").write_text('{"status": "fin')
    (sweep / "5" / "summary.json").write_text("[]")
    statuses = [job["status"] for job in report(sweep)]
    assert statuses[:6] == [
        *("finished", "finished", "unfinished", "finished"),
        *("unreadable", "unreadable"),
    ]


def screen(jobs, folder, **console):
    """What the table shows, by default in a pipe."""
    text = io.StringIO()
    show(jobs, folder, RunDisplay(console=Console(file=text, **console)))
    return text.getvalue()


def test_a_job_that_did_not_finish_is_a_row_with_its_reason(sweep):
    noted = SweepFolder(sweep)
    noted.note("11", "refused", ["optimizer.lr=-1"], "optimizer.lr must be > 0")
    noted.note("12", "diverged", ["optimizer.lr=1e30"], "loss must be finite")
    noted.note("3", "refused", ["optimizer.lr=5"], "belongs to another configuration")
    noted.note("4", "interrupted", ["optimizer.lr=4e-3"])
    jobs = report(sweep)
    assert [job["job"] for job in jobs][-3:] == ["10", "11", "12"]
    rows = {job["job"]: (job["status"], job["reason"]) for job in jobs}
    assert rows["11"] == ("refused", "optimizer.lr must be > 0")
    assert rows["12"] == ("diverged", "loss must be finite")
    assert rows["3"] == ("refused", "belongs to another configuration")
    assert rows["4"] == ("finished", "")  # since then it was trained on its own
    shown = screen(jobs, sweep)
    assert "job 11 refused: optimizer.lr must be > 0" in shown
    noted.forget("11")
    assert "11" not in [job["job"] for job in report(sweep)]


def test_the_names_of_a_run_folder_are_asked_not_spelt(checkout):
    text = (checkout / "energyflow_mlx" / "sweep_report.py").read_text()
    run = RunFolder(checkout)
    for name in (run.summary.name, run.config.name, run.checkpoints.name):
        assert name not in text


def test_the_csv_has_every_figure_and_every_job(sweep):
    SweepFolder(sweep).note("11", "refused", ["optimizer.lr=-1"], "a, b")
    jobs = report(sweep)
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [job["job"] for job in jobs]
    assert rows[3]["cosine"] == "0.3" and rows[3]["optimizer.lr"] == "3e-3"
    assert rows[-1]["reason"] == "a, b" and rows[-1]["cosine"] == ""


def test_the_table_fits_80_columns(tmp_path):
    final = {name: 0.123456 for name in ("cosine", "ce", "bleu", "p_at_1", "exact")}
    for job in range(3):
        overrides = [
            f"objectives.distillation.lr={0.00123456789 / (job + 1)}",
            f"objectives.reconstruction.lr=0.00{job}",
            f"data.train=[{'a' * 50}{job}.txt]",
            f"encoder.dilations={[1] * (job + 1)}",
        ]
        write_job(tmp_path / str(job), overrides, final)
    SweepFolder(tmp_path).note("3", "refused", ["x=1"], "a reason of words " * 10)
    lines = screen(report(tmp_path), "folder").splitlines()
    assert max(map(len, lines)) <= 80
    head = lines[1].split()
    assert head[:3] == ["job", "distillation.lr", "reconstruction.lr"]
    assert "status" in head
    assert "0.001235" in lines[3]
    terminal = {"width": 80, "force_terminal": True, "color_system": None}
    shown = screen(report(tmp_path), "folder", **terminal, _environ={"TERM": "xterm"})
    for word in (*head, "finished", "refused"):
        assert word in shown, "no word is broken"


def test_a_single_run_is_a_sweep_of_one(tmp_path):
    write_job(tmp_path / "run", ["a=1"], {"bleu": 40.0})
    (job,) = report(tmp_path / "run")
    assert (job["job"], job["final"]) == (".", {"bleu": 40.0})


def test_a_bar_in_a_value_does_not_break_the_markdown(tmp_path):
    write_job(tmp_path / "0", ["name=a|b"], {})
    write_job(tmp_path / "1", ["name=c"], {})
    report(tmp_path)
    assert "a\\|b" in (tmp_path / "sweep.md").read_text()


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="must hold run folders"):
        report(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(SweepReportArgs, sweep_report, [f"run={tmp_path / 'absent'}"])
    assert exit_info.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_command_line_prints_the_table(sweep):
    printed = run_command("sweep_report", f"run={sweep}")
    assert printed.returncode == 0
    lines = printed.stdout.splitlines()
    assert lines[0] == f"Sweep {sweep}"
    assert lines[1].split()[:3] == ["job", "lr", "status"]
    assert len(lines) == 14 and printed.stderr == ""
    assert (sweep / "sweep.md").is_file()


HYDRA_APP = """
import json, pathlib
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None)
def job(config):
    hydra_config = HydraConfig.get()
    folder = pathlib.Path(hydra_config.sweep.dir) / hydra_config.sweep.subdir
    folder.mkdir(parents=True, exist_ok=True)
    overrides = list(hydra_config.overrides.task)
    summary = {"status": "finished", "final": {"cosine": 0.5}, "overrides": overrides}
    (folder / "summary.json").write_text(json.dumps(summary))

job()
"""


def test_the_callback_reports_at_the_end_of_a_multirun(tmp_path, checkout):
    (tmp_path / "app.py").write_text(HYDRA_APP)
    target = "energyflow_mlx.sweep_report.SweepReport"
    words = [
        *("-m", "+lr=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"),
        f"+hydra.callbacks.report._target_={target}",
        "hydra/job_logging=disabled",
    ]
    done = subprocess.run(
        [sys.executable, "app.py", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [row["overrides"] for row in rows] == [{"lr": "1"}, {"lr": "2"}]
    assert f"Sweep {tmp_path / 'sweep'}" in done.stdout

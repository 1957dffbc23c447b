"""Several runs beside each other: their curves, their figures, what differs."""

import pytest

from energyflow_mlx.config import Config
from energyflow_mlx.errors import InputError
from energyflow_mlx.plot import PlotArgs, plot
from energyflow_mlx.plots import read_facts
from energyflow_mlx.plots.comparison import differing, figures_of
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog
from tests.plots.test_report import groups, is_affine, points_of


def make_run(path, seed, losses, final=None):
    folder = RunFolder(path)
    config = Config(seed=seed)
    config.run.dir = str(path)
    folder.begin(config)
    with MetricsLog(folder.metrics) as log:
        for step, loss in enumerate(losses, 1):
            log.write({"kind": "train", "step": step, "loss": loss})
        log.write({"kind": "validation", "step": 3, "p_at_1": seed / 10})
    if final:
        summary = {"status": "finished", "steps": 3, "seconds": 1.5, "final": final}
        folder.write_summary(summary | {"best": {"cosine": 0.5, "step": 2}})
    return folder


@pytest.fixture
def sweep(tmp_path):
    """A folder of three runs, the last unfinished."""
    make_run(tmp_path / "sweep" / "2", 3, [5.0, 4.0, 3.5], {"cosine": 0.5})
    make_run(tmp_path / "sweep" / "10", 4, [6.0, 3.0, 1.0], {"cosine": 0.75, "ce": 2.0})
    make_run(tmp_path / "sweep" / "11", 4, [7.0, 6.5, 6.0])
    return tmp_path / "sweep"


def runs_of(sweep):
    names = ("2", "10", "11")
    return {name: read_facts(RunFolder(sweep / name)) for name in names}


def test_figures_have_a_column_for_each_run(sweep):
    columns, rows = figures_of(runs_of(sweep))
    assert columns == ["measure", "2", "10", "11"]
    found = {row[0]: row[1:] for row in rows}
    assert found["cosine"] == [0.5, 0.75, None] and found["ce"] == [None, 2.0, None]
    assert found["status"] == ["finished", "finished", "unfinished"]
    assert found["best update"] == [2, 2, None]


def test_settings_that_differ_are_listed_and_no_others(sweep):
    assert differing(runs_of(sweep)) == (
        ["setting", "2", "10", "11"],
        [["seed", "3", "4", "4"]],
    )


def test_a_sweep_is_compared_curve_over_curve(sweep, tmp_path, capsys):
    plot(PlotArgs(run=str(sweep), output=str(tmp_path / "out")))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"loss.png", "p_at_1.png", "report.html"}
    found = groups(tmp_path / "out" / "report.html")
    every = [
        points_of(found[f"loss-run{n}-train-loss"]) for n in range(3)
    ]  # in the order 2, 10, 11
    values = [5.0, 4.0, 3.5, 6.0, 3.0, 1.0, 7.0, 6.5, 6.0]
    assert is_affine([y for points in every for _, y in points], values)
    assert "report.html" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(sweep, tmp_path):
    two = [str(sweep / "2"), str(sweep / "10")]
    out = str(tmp_path / "out")
    for args, said in (
        (PlotArgs(run=two), "output=FOLDER must be given"),
        (PlotArgs(run=[two[0], two[0]], output=out), "every run once"),
        (PlotArgs(run=two, output=out, sentences=["A dog."]), "need one run"),
        (PlotArgs(run=[*two, str(sweep / "absent")], output=out), "does not exist"),
        (PlotArgs(run=[], output=out), "at least one run folder"),
    ):
        with pytest.raises(InputError, match=said):
            plot(args)
    assert not (tmp_path / "out").exists()

"""What is optional: the core runs without it, and says how to get it."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from energyflow_mlx import plot
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.errors import InputError, require_package
from energyflow_mlx.evaluation.generation import decoding_metrics, note_on_bleu
from tests.commands import CHECKOUT


@pytest.fixture
def without(monkeypatch):
    """Return a function that hides a package."""

    def hide(package):
        for name in [n for n in sys.modules if n.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def test_core_needs_no_more_than_it_says():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    names = {d.split(">")[0] for d in project["dependencies"]}
    assert names == {
        *("mlx", "scipy-openblas32", "numpy", "nanobind"),
        *("tokenizers", "hydra-core", "rich"),
    }
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything[15:-1].split(",")) == set(extras) - {
        *("cpu", "cuda", "all", "dev", "docs", "peers", "mteb")
    }
    assert extras["dev"][0].startswith("energyflow-mlx[plot,bleu,")
    assert project["scripts"] == {"energyflow": "energyflow_mlx.__main__:main"}


def test_missing_package_is_one_line_that_installs_it(without):
    require_package("numpy", "plot")
    without("numpy_of_another_planet")
    with pytest.raises(InputError, match=r"pip install 'energyflow-mlx\[plot\]'"):
        require_package("numpy_of_another_planet", "plot")


def test_plot_without_its_package_is_status_2(without, monkeypatch, capsys):
    without("matplotlib")
    with pytest.raises(SystemExit) as end:
        cli.main(plot.PlotArgs, plot.plot, ["run=anything"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'energyflow-mlx[plot]'" in line


def test_without_sacrebleu_the_other_measures_stay_and_bleu_is_a_note(without):
    whole = decoding_metrics(["a dog"], ["a dog"])
    assert note_on_bleu(whole) == [] and note_on_bleu({"cosine": 1.0}) == []
    without("sacrebleu")
    found = decoding_metrics(["a dog"], ["a dog"])
    assert whole.keys() - found.keys() == {"bleu"}
    assert note_on_bleu(found) == [["bleu", "pip install 'energyflow-mlx[bleu]'"]]


def test_bare_trainer_takes_the_small_default_without_the_extras(tmp_path):
    code = (
        "import sys\n"
        "for name in ('sacrebleu', 'matplotlib'): sys.modules[name] = None\n"
        "sys.argv = ['energyflow', 'train']\n"
        "from energyflow_mlx.__main__ import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "+experiment=smoke" in done.stdout
    assert "bleu              pip install 'energyflow-mlx[bleu]'" in done.stdout
    (run,) = (tmp_path / "runs" / "smoke").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and "bleu" not in summary["final"]

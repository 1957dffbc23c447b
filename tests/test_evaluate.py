"""The evaluate command: the table of the end of training, on any held-out sentences."""

import json

import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluate import EvaluateArgs, EvaluateData, evaluate
from tests.build.test_run import small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder / "run", run(small(folder, {"trainer.max_steps": 4}))


def table(capsys, **arguments):
    evaluate(EvaluateArgs(**arguments))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_without_files_it_measures_the_runs_own_held_out_sentences(trained, capsys):
    """The same function as at the end of training gives the same figures."""
    folder, summary = trained
    found = table(capsys, run=str(folder), decode_samples=2)
    assert found.pop("seconds") > 0 and found.pop("sentences") == 6
    assert found == pytest.approx(summary["final"], rel=1e-5)


def test_recall_in_groups_counts_sentences_of_a_kind(trained, capsys, tmp_path):
    lines = ["A dog runs.", "A dog runs.", "Two red cars.", "Two red cars."]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    data = EvaluateData(val=str(tmp_path / "pairs.txt"))
    found = table(capsys, run=str(trained[0]), data=data, groups=2)
    assert found["group_recall_at_1"] == 1.0
    with pytest.raises(InputError, match="divide the 4 sentences, got 3"):
        table(capsys, run=str(trained[0]), data=data, groups=3)

"""What every validation measures beside the objectives: STS, the vectors' range."""

import logging

import numpy as np
import pytest

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.config import DistillationConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.similarity import StsPairs, sts_score
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.validation import describe_vectors
from tests.build.tiny import SENTENCES
from tests.training.small import make_trainer, objectives, quiet_display
from tests.training.test_parallel import tiny_config, tiny_data

SCORES = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 0.0])
PAIRS = StsPairs(SCORES, SENTENCES[:6], SENTENCES[6:12])
RANGE = ["vector_min", "vector_max", "vector_mean", "vector_std"]


def rows(folder, kind):
    return [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == kind]


def trained(folder, *, sts=PAIRS, **changes):
    """A finished trainer, its data with an STS set."""
    data = tiny_data()
    data.sts = sts
    named = {} if sts is None else {"trainer.sts": "dev.tsv"}
    trainer = make_trainer(tiny_config(named, changes), data, folder)
    trainer.run()
    return trainer


def test_every_validation_measures_sts_with_the_present_weights(tmp_path):
    trainer = trained(tmp_path, **{"trainer.ema": 0.5})
    found = [row["sts"] for row in rows(tmp_path, "validation")]
    assert len(found) == 3
    trainer.codec.model.eval()
    with trainer.stepper.averaged():
        first, second = (trainer.codec.encode(t) for t in (PAIRS.first, PAIRS.second))
    assert found[-1] == pytest.approx(sts_score(first, second, PAIRS.scores))


def test_sts_may_choose_the_best_checkpoint(tmp_path):
    trainer = trained(tmp_path, **{"trainer.best_metric": "sts"})
    found = [row["sts"] for row in rows(tmp_path, "validation")]
    assert trainer.progress.best_value == max(found)


def test_without_a_set_nothing_of_it_is_in_the_log(tmp_path):
    trained(tmp_path, sts=None)
    assert not any("sts" in row for row in rows(tmp_path, "validation"))


def test_shortened_vectors_are_measured_where_they_are_trained(tmp_path):
    own = objectives(distillation=DistillationConfig(matryoshka=[4], lr=1e-3))
    trained(tmp_path, objectives=own)
    for row in rows(tmp_path, "validation"):
        assert {"similarity_4", "p_at_1_4", "sts", "sts_4"} <= row.keys()
    assert any(row["sts"] != row["sts_4"] for row in rows(tmp_path, "validation"))
    assert all(row["similarity_4_loss"] > 0 for row in rows(tmp_path, "train"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("3\ta\tb\n3\tc\td\n", "two different scores"), ("x\ta\tb\n", "line 1 must")],
)
def test_a_set_that_ranks_nothing_is_refused_before_anything_else(
    tmp_path, text, message
):
    path = tmp_path / "dev.tsv"
    path.write_text(text, encoding="utf-8")
    config = tiny_config({"trainer.sts": str(path), "data.train": ["missing.txt"]})
    with pytest.raises(InputError, match=message):
        load_run_data(config, build_objectives(config), None, quiet_display())


def test_range_mean_and_deviation_of_vectors_by_hand():
    vectors = np.array([[1.0, -3.0], [2.0, 4.0]], np.float32)
    found = describe_vectors(vectors)
    assert list(found) == RANGE
    assert [*found.values()] == pytest.approx([-3, 4, 1, np.sqrt(6.5)])


def test_the_encoders_vectors_are_described_at_every_validation(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, "energyflow_mlx"):
        trainer = trained(tmp_path)
    found = rows(tmp_path, "vectors")
    assert [row["step"] for row in found] == [2, 4, 6]
    trainer.codec.model.eval()
    y = trainer.codec.encode(SENTENCES, normalize_embeddings=False)
    expected = [y.min(), y.max(), y.mean(), y.std()]
    assert [found[-1][name] for name in RANGE] == pytest.approx(expected, rel=1e-4)
    assert not any(
        name in row for row in rows(tmp_path, "validation") for name in RANGE
    )
    shown = [r for r in caplog.records if "vector_std" in r.getMessage()]
    assert len(shown) == 3 and {r.levelno for r in shown} == {logging.DEBUG}


def test_a_timed_run_shows_the_range_of_the_vectors(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "energyflow_mlx"):
        trained(tmp_path, **{"trainer.debug_timing": True})
    assert any("vector_min" in r.getMessage() for r in caplog.records)


def test_short_strings_have_finite_vectors_that_differ(tmp_path):
    """A smoke test of what the log describes, on three short strings."""
    trainer = trained(tmp_path)
    trainer.codec.model.eval()
    y = trainer.codec.encode(["a", "a dog runs", ""], normalize_embeddings=False)
    found = describe_vectors(y)
    assert all(np.isfinite(value) for value in found.values())
    assert found["vector_min"] < found["vector_mean"] < found["vector_max"]
    assert found["vector_std"] > 0
    assert len(np.unique(y.round(5), axis=0)) == 3

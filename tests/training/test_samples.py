"""Followed sentences: which they are, what is written of them, once each."""

import shutil

import numpy as np
import pytest

from energyflow_mlx import load
from energyflow_mlx.build.data import load_held_out
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog, read_metrics
from tests.build.test_run import small

CHANGES = {
    **{"trainer.max_steps": 4, "trainer.validate_every": 2, "trainer.keep": 2},
    **{"trainer.follow_samples": 3, "trainer.decode_samples": 0},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four updates, and its config."""
    folder = tmp_path_factory.mktemp("followed")
    run(small(folder, CHANGES))
    return RunFolder(folder / "run"), folder


def test_the_same_sentences_are_written_at_every_validation(trained):
    records = read_metrics(trained[0].samples)
    assert [r["step"] for r in records] == [2, 2, 2, 4, 4, 4]
    first, second = records[:3], records[3:]
    for key in ("sentence", "original", "path"):
        assert [r[key] for r in first] == [r[key] for r in second]
    assert len({r["sentence"] for r in first}) == 3
    assert [r["sentence"] for r in first] == sorted(r["sentence"] for r in first)


def test_they_are_what_the_weights_of_that_update_decode(trained):
    """The best checkpoint decodes the same texts from the teacher's vectors."""
    folder, codec = trained[0], load(trained[0].path)
    best = folder.best().meta["step"]
    records = [r for r in folder.read_samples() if r["step"] == best]
    objectives = build_objectives(codec.config)
    held_out, embed = load_held_out(codec.config, objectives, codec.tokenizer)
    numbers = [r["sentence"] for r in records]
    assert [r["original"] for r in records] == [held_out.texts[n] for n in numbers]
    own = held_out.targets[numbers]
    assert [r["decoded"] for r in records] == codec.decode(own)
    again = embed([r["decoded"] for r in records])
    cosines = [r["cosine"] for r in records]
    np.testing.assert_allclose(cosines, np.sum(own * again, axis=1), atol=1e-4)


def test_another_seed_follows_others(trained, tmp_path):
    from energyflow_mlx.data.dataset import permutation

    numbers = [r["sentence"] for r in trained[0].read_samples()[:3]]
    assert numbers == sorted(permutation(6, 42)[:3].tolist())
    assert numbers != sorted(permutation(6, 3)[:3].tolist())


def test_a_resumed_run_writes_each_validation_once(trained, tmp_path):
    """The checkpoint after the last validation was lost with the power."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained[0].path, folder.path)
    folder.summary.unlink()
    shutil.rmtree(folder.checkpoints / "step_00000004")
    before = folder.samples.read_text()
    with MetricsLog(folder.samples) as log:
        log.write(folder.read_samples()[-1] | {"step": 3, "decoded": "stale"})
    run(small(tmp_path, CHANGES))
    assert folder.samples.read_text() == before


@pytest.mark.parametrize("lines", range(6))
def test_lines_that_went_from_the_end_are_told(trained, tmp_path, caplog, lines):
    """Whole lines, and so nothing in the file itself says so."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained[0].path, folder.path)
    whole = folder.read_samples()
    assert not caplog.records
    kept = folder.samples.read_bytes().splitlines(keepends=True)[:lines]
    folder.samples.write_bytes(b"".join(kept))
    assert folder.read_samples() == whole[:lines]
    (said,) = caplog.messages
    assert "samples.jsonl" in said and "missing at its end" in said


def test_a_file_that_went_is_told(trained, tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained[0].path, folder.path)
    folder.samples.unlink()
    assert folder.read_samples() == []
    (said,) = caplog.messages
    assert "samples.jsonl" in said and "left out" in said


def test_a_run_that_goes_on_says_that_samples_went(trained, tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained[0].path, folder.path)
    folder.samples.write_bytes(b"")
    run(small(tmp_path, CHANGES | {"trainer.max_steps": 6}))
    (said,) = [m for m in caplog.messages if "samples.jsonl" in m]
    assert "lines up to step 4 are missing at its end" in said
    assert {r["step"] for r in folder.read_samples()} == {6}


def test_none_are_followed_where_none_are_asked_for(tmp_path):
    run(small(tmp_path, CHANGES | {"trainer.follow_samples": 0}))
    assert not RunFolder(tmp_path / "run").samples.exists()

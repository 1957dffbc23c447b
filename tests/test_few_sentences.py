"""Few sentences train, or are refused in one line before anything is written."""

import json

import numpy as np
import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.errors import InputError
from tests.docs.pages import compose_config

CAPTIONS = generate_captions(200, seed=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def config(tmp_path, cache, sentences, *words):
    file = tmp_path / "few.txt"
    file.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return compose_config(
        *("+experiment=smoke", f"data.train={file}", f"run.dir={tmp_path / 'run'}"),
        *("trainer.max_steps=2", "data.buckets=[]", "token_rows.candidates=64"),
        *(f"teacher.cache_dir={cache}", "trainer.decode_samples=2", *words),
    )


@pytest.mark.parametrize("count", [2, 3, 5, 10, 50, 100])
def test_few_sentences_train(tmp_path, cache, count):
    summary = run(config(tmp_path, cache, CAPTIONS[:count]))
    assert summary["status"] == "finished" and summary["steps"] == 2
    assert np.isfinite(list(summary["final"].values())).all()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(np.isfinite(r["loss"]) for r in rows if "loss" in r)


@pytest.mark.parametrize("sentences", [CAPTIONS[:1], CAPTIONS[:1] * 50], ids=len)
def test_one_sentence_is_refused_and_nothing_is_written(tmp_path, cache, sentences):
    with pytest.raises(InputError, match="2 different sentences or more"):
        run(config(tmp_path, cache, sentences))
    assert not (tmp_path / "run").exists()


def test_one_sentence_trains_where_others_are_held_out(tmp_path, cache):
    held_out = tmp_path / "val.txt"
    held_out.write_text(CAPTIONS[1] + "\n", encoding="utf-8")
    settings = config(tmp_path, cache, CAPTIONS[:1], f"data.val={held_out}")
    assert run(settings)["steps"] == 2


def test_fewer_sentences_than_parts_are_refused_and_the_mended_command_trains(
    tmp_path, cache
):
    with pytest.raises(InputError, match="must be at least 8 = trainer.accumulate"):
        run(config(tmp_path, cache, CAPTIONS[:5], "trainer.accumulate=8"))
    assert not (tmp_path / "run").exists()
    assert run(config(tmp_path, cache, CAPTIONS[:5]))["steps"] == 2


def test_header_says_that_batches_are_smaller_than_asked(tmp_path, cache, capsys):
    run(config(tmp_path, cache, CAPTIONS[:10]))
    assert "batches of 9, as there are no 32 sentences" in capsys.readouterr().out


def test_small_batches_resume(tmp_path, cache):
    run(config(tmp_path, cache, CAPTIONS[:10], "trainer.save_every=1"))
    (tmp_path / "run" / "summary.json").unlink()
    again = run(config(tmp_path, cache, CAPTIONS[:10], "trainer.save_every=1"))
    assert again["steps"] == 2

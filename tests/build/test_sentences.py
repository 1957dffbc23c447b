"""What a run trains on and is measured on."""

import pytest

from energyflow_mlx.build.sentences import run_sentences
from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.data.distinct import count_among
from tests.commands import run_command

OWN = ["A dog runs home.", "Two cats sleep.", "It rains here.", "Birds sing loudly."]


def write(path, texts):
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Training sentences, and held-out ones of which two of three are among them."""
    held_out = ["a dog runs home.", "Nobody has read this.", "It rains here. "]
    return write(tmp_path / "own.txt", OWN), write(tmp_path / "val.txt", held_out)


def test_held_out_sentences_that_are_trained_on_are_warned_of(files):
    said = []
    run_sentences(Config(data=DataConfig(train=files[0], val=files[1])), said.append)
    (line,) = said
    assert "2 of 3 held-out sentences are training sentences too" in line


def test_nothing_is_said_where_all_held_out_sentences_are_new(files, tmp_path):
    said = []
    new = write(tmp_path / "new.txt", ["Nobody has read this.", "Or this one here."])
    for data in (DataConfig(train=files[0], val=new), DataConfig(captions=200)):
        run_sentences(Config(data=data), said.append)
    assert not said


def test_a_user_of_train_sees_the_warning(files, tmp_path):
    done = run_command(
        *("train", "+experiment=distill", f"data.train={files[0]}"),
        *(f"data.val={files[1]}", f"run.dir={tmp_path / 'run'}"),
        *("trainer.max_steps=1", "trainer.micro_batch=4", "encoder.dim=16"),
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert "2 of 3 held-out sentences are training sentences too" in said


def test_equal_texts_are_counted_whatever_the_case():
    assert count_among(["A b", "c ", "d", "a B"], ["a b", "C", "C"]) == 3
    assert count_among([], ["a"]) == count_among(["a"], []) == 0

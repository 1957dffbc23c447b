"""Every setting of sentences and teacher reaches the data of a run."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from energyflow_mlx.build import sentences
from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.sentences import read_sets
from energyflow_mlx.config import (
    Config,
    DataConfig,
    TeacherConfig,
    TokenizerConfig,
)
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.teacher import Teacher
from tests.build.tiny import make_config
from tests.teacher.tiny import write_teacher

LINES = [f"the {a} {b} runs in the park" for a in ("big", "red") for b in "bcdefgh"]


@pytest.fixture
def load(tmp_path):
    """Data of a run over a few sentences, with a tiny teacher; settings by group."""
    folder = write_teacher(tmp_path / "teacher")
    (tmp_path / "a.txt").write_text("\n".join(LINES), encoding="utf-8")

    def load(data=None, **teacher):
        usual = {"train": str(tmp_path / "a.txt"), "val_fraction": 0.25}
        named = {"name": str(folder), "max_length": 16, "cache_dir": str(tmp_path)}
        config = Config(
            data=DataConfig(**usual | (data or {})),
            teacher=TeacherConfig(**named | teacher),
        )
        display = RunDisplay(console=Console(file=io.StringIO()))
        return load_run_data(config, build_objectives(config), None, display)

    return load


def sets(seed=42, **data):
    train, held_out, _ = read_sets(Config(data=DataConfig(**data), seed=seed))
    return train.texts, held_out.texts


# The split ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 260])
def test_so_many_captions_are_drawn_as_asked_for(count):
    train, held_out = sets(captions=count)
    assert len(set(train) | set(held_out)) == len(train) + len(held_out) == count


@pytest.mark.parametrize(("fraction", "held"), [(0.1, 20), (0.25, 50)])
def test_the_fraction_says_how_many_are_held_out(fraction, held):
    train, held_out = sets(captions=200, val_fraction=fraction)
    assert (len(train), len(held_out)) == (200 - held, held)


def test_the_limit_cuts_training_and_leaves_the_held_out_alone():
    whole, held_out = sets(captions=200)
    few, same = sets(captions=200, limit=30)
    assert len(few) == 30 and set(few) < set(whole)
    assert same == held_out
    assert few == [text for text in whole if text in set(few)]  # in their order


def test_the_seed_decides_captions_and_split():
    assert sets(captions=200) == sets(captions=200)
    assert set(sets(captions=200)[0]).isdisjoint(sets(captions=200)[1])
    assert sets(captions=200, seed=1) != sets(captions=200)


def test_the_seed_decides_the_split_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(LINES), encoding="utf-8")
    held = {tuple(sets(seed, train=str(tmp_path / "a.txt"))[1]) for seed in range(5)}
    assert len(held) > 1


def test_train_and_val_name_their_splits_of_a_dataset(monkeypatch):
    """The package that reads datasets is an extra; what it is asked for is ours."""
    asked = []

    def read_column(name, **wanted):
        asked.append((name, *wanted.values()))
        return [name]

    monkeypatch.setattr(sentences, "read_column", read_column)
    keys = {"text_column": "c", "split": "s", "val_split": "v", "subset": "u"}
    train, held_out = sets(train=["a", "b"], val="d", format="hf", **keys)
    assert (train, held_out) == (["a", "b"], ["d"])
    assert asked == [(n, "c", x, "u") for n, x in [("a", "s"), ("b", "s"), ("d", "v")]]


# The teacher -------------------------------------------------------------------------


def lengths(vectors):
    return np.linalg.norm(vectors, axis=1)


def test_normalize_reaches_the_vectors(load):
    scaled, raw = load(normalize=True), load(normalize=False)
    np.testing.assert_allclose(lengths(scaled.train_targets), 1, atol=1e-5)
    assert np.abs(lengths(raw.train_targets) - 1).min() > 0.01
    assert np.abs(lengths(raw.held_out.targets) - 1).min() > 0.01


def test_the_teachers_max_length_reaches_its_vectors(load):
    whole, cut = load(), load(max_length=4)
    assert np.abs(whole.train_targets - cut.train_targets).max() > 1e-3
    # "the big" and the two ends are all that is left of half the sentences.
    assert len(np.unique(cut.train_targets.round(4), axis=0)) == 2
    assert len(np.unique(whole.train_targets.round(4), axis=0)) > 2


@pytest.mark.parametrize("size", [1, 3])
def test_the_teachers_batch_size_reaches_it(load, monkeypatch, size):
    sizes, encode = [], Teacher.encode

    def spy(self, texts, *, batch_size, progress=None):
        sizes.append(batch_size)
        return encode(self, texts, batch_size=batch_size, progress=progress)

    monkeypatch.setattr(Teacher, "encode", spy)
    load(batch_size=size)
    assert sizes == [size, size]  # training and held-out sentences


# The student's tokens ----------------------------------------------------------------


def test_max_length_cuts_the_ids_and_keeps_the_end_token(load):
    whole, cut = load(), load({"max_length": 6})
    assert max(map(len, whole.train_ids)) > 6
    assert {len(row) for row in cut.train_ids} == {6}
    for data in (whole, cut):
        ends = {row[-1] for row in [*data.train_ids, *data.held_out.ids]}
        assert ends == {data.tokenizer.special.end}


# Prompts and functions ---------------------------------------------------------------


def test_the_prompt_reaches_the_vectors(load, tmp_path):
    plain = load()
    prompts = json.dumps({"prompts": {"query": "the big "}})
    path = tmp_path / "teacher" / "config_sentence_transformers.json"
    path.write_text(prompts)
    prompted = load(prompt="query")
    assert np.abs(prompted.train_targets - plain.train_targets).max() > 1e-3
    assert all(map(np.array_equal, prompted.train_ids, plain.train_ids))


def test_vectors_to_vectors_need_no_tokenizer_of_a_functions(tmp_path):
    """Objective flow reads no text, so the smallest vocabulary will do."""
    (tmp_path / "a.txt").write_text("\n".join(LINES), encoding="utf-8")
    config = make_config(experiment="flow")
    config.data.train, config.data.val_fraction = [str(tmp_path / "a.txt")], 0.25
    config.teacher = TeacherConfig(
        kind="callable", function="a:b", cache_dir=str(tmp_path)
    )
    config.tokenizer = TokenizerConfig(kind="bpe", bpe_size=300)
    display = RunDisplay(console=Console(file=io.StringIO()))
    objectives = build_objectives(config)
    data = load_run_data(config, objectives, None, display, lengths_and_one)
    assert data.dimension == 2 and data.teacher == "a:b"
    assert data.word_embeddings is None


def lengths_and_one(texts):
    return [[float(len(text)), 1.0] for text in texts]

"""Edited sentences reach the teacher and the training rows; what cannot is refused."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

from energyflow_mlx.build import sentences
from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.edits import with_edits
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.build.sentences import read_sets
from energyflow_mlx.config import Config, DataConfig, TeacherConfig, TokenizerConfig
from energyflow_mlx.config.data import EditsConfig
from energyflow_mlx.config.own_pairs import OwnPairsConfig
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import SentenceSet, write_efb
from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.teacher import Teacher, teacher_from
from tests.teacher.tiny import write_teacher

CAPTIONS = generate_captions(90, seed=3)
FILES = {"captions.txt": CAPTIONS[:60], "news.txt": CAPTIONS[60:]}
COUNT = 50
ADDED = {"not", "no", "nobody", "there", "that", "is", "are"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a user stands in, with two files and a tiny teacher."""
    for name, texts in FILES.items():
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_teacher(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(count=COUNT, of=None, seed=42, **data):
    data = {"train": list(FILES), "val_fraction": 0.2, **data}
    return Config(
        data=DataConfig(**data, edits=EditsConfig(count, of)),
        teacher=TeacherConfig("teacher", max_length=16, cache_dir="cache"),
        tokenizer=TokenizerConfig(kind="bpe", bpe_size=400),
        seed=seed,
    )


def sets(config):
    """Training and held-out sentences, and those of them that are edits."""
    before, held_out, source = read_sets(config)
    train, _ = with_edits(before, held_out, source, config)
    assert train.texts[: len(before)] == before.texts
    return train.texts, held_out.texts, train.texts[len(before) :]


def load(config):
    display = RunDisplay(console=Console(file=io.StringIO()))
    return load_run_data(config, build_objectives(config), None, display)


def words_of(texts):
    return {word.strip(".").lower() for text in texts for word in text.split()}


def test_without_a_count_the_sentences_are_those_of_the_files(folder):
    train, held_out, source = read_sets(config_of(0))
    found = with_edits(train, held_out, source, config_of(0))
    assert all(a is b for a, b in zip(found, (train, source), strict=True))


def test_edits_equal_no_training_and_no_held_out_sentence(folder):
    """The held-out ones are what would be made, were they not held out."""
    made = sets(config_of(val=["news.txt"]))[2]
    (folder / "val.txt").write_text("\n".join(made).upper())
    train, held_out, made = sets(config_of(400, val=["val.txt"]))
    assert len(made) == 400 and len(held_out) == COUNT
    together, _ = deduplicate(train + held_out, ignore_case=True)
    assert len(together) == len(train) + len(held_out)


def test_held_out_sentences_are_not_edited(folder):
    held = ["held1 held2 held3 held4 held5"] * 3
    (folder / "val.txt").write_text("\n".join(held))
    _, _, made = sets(config_of(400, val=["val.txt"]))
    assert "held" not in " ".join(made)


def test_the_runs_seed_decides_the_edits(folder):
    held_out = {"val": ["news.txt"], "train": ["captions.txt"]}
    first, again, other = (sets(config_of(seed=s, **held_out))[2] for s in (1, 1, 2))
    assert first == again
    assert len(set(first) & set(other)) < COUNT / 2


@pytest.mark.parametrize("of", [["news.txt"], "captions.txt"])
def test_only_the_files_named_are_edited(folder, of):
    """Each sentence has its file's words, wherever the split has put it."""
    for name in FILES:
        texts = [f"{name}{i} " + " ".join([f"{name}w{i}"] * 6) for i in range(30)]
        (folder / name).write_text("\n".join(texts))
    _, _, made = sets(config_of(of=of))
    named = of if isinstance(of, str) else of[0]
    others = set(FILES) - {named}
    assert len(made) == COUNT and named in " ".join(made)
    assert not any(name in " ".join(made) for name in others)
    _, _, of_all = sets(config_of())
    assert all(name in " ".join(of_all) for name in FILES)


def test_datasets_are_named_as_files_are(monkeypatch):
    """The package that reads datasets is an extra; which sentence is whose is ours."""
    texts = {name: [f"{name}{i} {name} b c d" for i in range(30)] for name in "xy"}
    monkeypatch.setattr(sentences, "read_column", lambda name, **keys: texts[name])
    _, _, made = sets(config_of(train=["x", "y"], of=["y"], format="hf"))
    assert len(made) == COUNT and "x" not in " ".join(made)


def test_the_one_file_there_is_may_be_named(folder):
    one = {"train": ["captions.txt"]}
    assert sets(config_of(of="captions.txt", **one)) == sets(config_of(**one))


def test_the_limit_counts_real_sentences_and_they_alone_are_edited(folder):
    train, _, made = sets(config_of(limit=10))
    assert len(made) == COUNT and len(train) == 10 + COUNT
    assert words_of(made) <= words_of(train[:10]) | ADDED


def test_built_in_captions_are_edited_too(folder):
    train, _, made = sets(config_of(train=None, captions=100))
    assert len(made) == COUNT and len(train) == 80 + COUNT


def test_edits_reach_the_teacher_and_the_training_rows(folder):
    config = config_of()
    data, plain = load(config), load(config_of(0))
    train, held_out, made = sets(config)
    assert len(data.train_ids) == len(plain.train_ids) + COUNT == len(train)
    ids = data.tokenizer.encode(train, config.data.max_length)
    assert all(map(np.array_equal, data.train_ids, ids))
    expected = teacher_from(config.teacher).encode(made, batch_size=0)
    np.testing.assert_allclose(data.train_targets[-COUNT:], expected, atol=1e-5)
    assert data.held_out.texts == plain.held_out.texts == held_out
    np.testing.assert_array_equal(data.held_out.targets, plain.held_out.targets)
    assert data.source == "captions.txt, news.txt, 50 edited sentences"


@pytest.mark.parametrize("files", [list(FILES), ["news.txt"]])
def test_own_pairs_are_sampled_near_the_files_named_and_near_no_edit(folder, files):
    """Edits come after the real sentences, and are of no file."""
    near = OwnPairsConfig(of="news.txt")
    config = config_of(of=files[0], train=files, own_pairs=near)
    train, near = sets(config)[0], load(config).sampled_near
    real = [text for text in FILES["news.txt"] if text in train[:-COUNT]]
    assert sorted(train[i] for i in near) == sorted(real)
    assert load(config_of(train=files)).sampled_near is None


def test_the_cache_has_the_vectors_of_edits_when_they_are_read_again(
    folder, monkeypatch
):
    first = load(config_of())

    def refuse(*given, **settings):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(Teacher, "encode", refuse)
    again = load(config_of())
    np.testing.assert_array_equal(again.train_targets, first.train_targets)


def small_config(folder):
    config = config_of()
    config.run.dir = str(folder)
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden, part.embedding_init = 16, 16, "normal"
    settings = {"micro_batch": 16, "max_steps": 6, "save_every": 3, "compile": False}
    more = {"decode_samples": 0, "keep": 9, "validate_every": 6}
    config.trainer = replace(config.trainer, **settings | more)
    return config


def test_a_run_counts_its_edits_and_resumes_with_the_same_bits(folder):
    """As elsewhere: without the vectors that the first process left in the cache."""
    summary = run(small_config("whole"))
    assert summary["edited_sentences"] == COUNT
    shutil.copytree("whole", "resumed")
    shutil.rmtree("cache")
    Path("resumed/summary.json").unlink()
    shutil.rmtree("resumed/checkpoints/step_00000006")
    assert RunFolder(Path("resumed")).steps()[-1] == 3
    run(small_config("resumed"))
    whole, resumed = (RunFolder(Path(name)).latest() for name in ("whole", "resumed"))
    assert whole.path.name == resumed.path.name == "step_00000006"
    assert whole.arrays.keys() == resumed.arrays.keys()
    assert all(mx.array_equal(whole.arrays[k], resumed.arrays[k]) for k in whole.arrays)


def test_another_number_of_edits_is_another_run(folder):
    config = small_config("run")
    config.trainer.max_steps = 1
    run(config)
    config.data.edits.count += 1
    with pytest.raises(InputError, match="data.edits.count was 50, got 51"):
        run(config)


# Refusals ----------------------------------------------------------------------------


def test_few_sentences_are_refused_with_the_number_of_their_edits(folder):
    (folder / "few.txt").write_text("One bird sings here.\n" * 2)
    few = {"train": ["few.txt"], "val": ["news.txt"]}
    expected = (
        r"count must be below 5,000: 20,000 tries gave \d\d different edits; "
        r"sentences to edit: 2\.$"
    )
    with pytest.raises(InputError, match=expected):
        sets(config_of(5000, **few))


def test_files_that_the_limit_left_without_a_sentence_are_refused(folder):
    (folder / "one.txt").write_text("One bird sings here.\n")
    with pytest.raises(
        InputError, match="gave 0 different edits; sentences to edit: 0"
    ):
        sets(config_of(of="one.txt", train=["captions.txt", "one.txt"], limit=5))


def test_own_pairs_near_no_sentence_are_refused(folder):
    (folder / "one.txt").write_text("One bird sings here.\n")
    near = OwnPairsConfig(of="one.txt")
    train = ["captions.txt", "one.txt"]
    with pytest.raises(InputError, match="own_pairs.of must name a file with training"):
        load(config_of(0, train=train, own_pairs=near, limit=5))


def test_a_file_that_is_not_trained_on_is_refused():
    expected = (
        r"edits.of must be of data.train \(captions.txt, news.txt\), got 'old.txt'"
    )
    with pytest.raises(InputError, match=expected):
        config_of(of=["news.txt", "old.txt"])
    with pytest.raises(InputError, match=r"\(none is given\), got 'news.txt'"):
        config_of(of="news.txt", train=None)
    with pytest.raises(InputError, match=r"own_pairs.of must be of .*, got 'old.txt'"):
        config_of(own_pairs=OwnPairsConfig(of="old.txt"))


@pytest.mark.parametrize("count", [-1, 2**24 + 1, float("nan")])
def test_a_count_out_of_its_bounds_is_refused(count):
    with pytest.raises(InputError, match="data.edits.count must be"):
        EditsConfig(count)


def test_pairs_are_not_edited():
    with pytest.raises(InputError, match="count must be 0, because data.pairs is true"):
        config_of(pairs=True)


def test_a_precomputed_teacher_has_no_vectors_of_edits():
    with pytest.raises(InputError, match="count must be 0, because teacher=precompu"):
        Config(
            data=DataConfig(train="a.efb", edits=EditsConfig(5)),
            teacher=TeacherConfig(kind="precomputed"),
        )


def vectors(folder):
    np.save(folder / "a.npy", np.arange(1, 31)[:, None] * np.ones(4))
    return "a.npy"


def stored(folder):
    rows = np.ones((60, 4), np.float32)
    write_efb(folder / "a.efb", SentenceSet(CAPTIONS[:60], None, rows))
    return "a.efb"


def tokens(folder):
    write_jsonl(folder / "a.jsonl", ids=[np.array([i, 7]) for i in range(30)])
    return "a.jsonl"


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (vectors, "training sentences as text, got vectors alone"),
        (tokens, "training sentences as text, got token ids"),
        (stored, "must be 0 where the training data brings its own vectors, got 50"),
    ],
)
def test_what_no_edit_can_be_made_of_is_refused(folder, write, expected):
    with pytest.raises(InputError, match=expected):
        load(config_of(train=[write(folder)]))


def test_held_out_sentences_must_be_text_so_that_no_edit_equals_one(folder):
    with pytest.raises(InputError, match="held-out sentences as text, got token ids"):
        load(config_of(val=[tokens(folder)]))

"""What a run does with its configuration before the first update."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.data import read_sets
from energyflow_mlx.build.run import lengths_for, run
from energyflow_mlx.config import TeacherConfig, TokenizerConfig
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runtime import device
from energyflow_mlx.teacher import teacher_from
from tests.teacher.tiny import byte_pairs, unigram, write_teacher_of
from tests.training.small import E, make_config, make_stepper, step


def small(folder, changes=None):
    config = make_config(
        {
            **{"data.captions": 120, "data.buckets": [16, 32], "data.max_length": 32},
            **{"trainer.max_steps": 1, "trainer.micro_batch": 16},
            **{"trainer.decode_samples": 2, "trainer.compile": False},
            **{"run.dir": str(folder / "run")},
            **(changes or {}),
        }
    )
    config.encoder.dim = config.decoder.dim = 384
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One update with a rate so small that the weights are those of the start."""
    folder = tmp_path_factory.mktemp("trained")
    before = mx.get_memory_limit() if hasattr(mx, "get_memory_limit") else None
    set_to = []
    original = mx.set_memory_limit
    mx.set_memory_limit = lambda size: set_to.append(size) or original(size)
    try:
        config = small(folder, {"trainer.memory_limit_gb": 3.0})
        config.optimizer.min_lr = 0.0
        for objective in (
            config.objectives.distillation,
            config.objectives.reconstruction,
        ):
            objective.lr = 1e-12
        summary = run(config)
    finally:
        mx.set_memory_limit = original
        original(before or 2**40)
    return folder, summary, set_to


def test_the_memory_limit_of_the_configuration_is_set(trained):
    assert trained[2] == [3 * 2**30]


def test_token_tables_start_from_the_teachers_word_embeddings(trained):
    folder, _, _ = trained
    run_folder = RunFolder(folder / "run")
    weights = run_folder.best((MODEL,)).arrays_of(MODEL)
    table = np.array(weights["encoder.embedding.weight"])
    from energyflow_mlx.text.tokenizer import Tokenizer

    ids = Tokenizer.load(run_folder.tokenizer).source_ids
    words = teacher_from(TeacherConfig()).word_embeddings[ids]
    scaled = words * (0.5 / np.sqrt(np.mean(words**2)))
    np.testing.assert_allclose(table, scaled, atol=1e-5)


def test_the_final_table_measures_meaning_where_the_teacher_reads(trained):
    assert "semantic_cosine" in trained[1]["final"]


def test_a_precomputed_teacher_measures_no_meaning(tmp_path):
    texts = [f"A dog number {i} runs." for i in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(60, 12)))
    config = small(tmp_path)
    config.data.train = config.data.val = [str(tmp_path / "a.txt")]
    config.teacher = TeacherConfig(
        kind="precomputed",
        train_vectors=str(tmp_path / "train.npy"),
        val_vectors=str(tmp_path / "val.npy"),
    )
    assert "semantic_cosine" not in run(config)["final"]


@pytest.mark.parametrize(
    ("layout", "make_tokenizer"), [("roberta", byte_pairs), ("xlm-roberta", unigram)]
)
def test_a_teacher_without_word_pieces_trains_with_an_own_vocabulary(
    tmp_path, layout, make_tokenizer
):
    folder = write_teacher_of(tmp_path / "teacher", layout, make_tokenizer())
    config = small(tmp_path, {"trainer.max_steps": 3})
    config.teacher = TeacherConfig(
        str(folder), max_length=16, cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(InputError, match=r"tokenizer\.kind=bpe works with any teacher"):
        run(config)
    assert not (tmp_path / "run").exists()
    config.tokenizer = TokenizerConfig(kind="bpe", bpe_size=300)
    summary = run(config)
    assert (summary["status"], summary["steps"]) == ("finished", 3)
    meta = RunFolder(tmp_path / "run").best((MODEL,)).meta
    assert meta["dimension"] == teacher_from(config.teacher).dimension


# A function as the teacher --------------------------------------------------------


def letters(texts):
    """How often each of nine letters occurs."""
    return np.array([[text.count(c) for c in "aeiounrst"] for text in texts], float)


def with_function(folder, version="", steps=3):
    config = small(folder, {"trainer.max_steps": steps})
    config.teacher = TeacherConfig(
        kind="callable",
        function="nowhere_to_import:letters",
        version=version,
        cache_dir=str(folder / "cache"),
    )
    config.tokenizer = TokenizerConfig(kind="bpe", bpe_size=300)
    return config


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("function")
    return folder, run(with_function(folder), function=letters)


def test_a_function_teaches_a_run(taught):
    folder, summary = taught
    assert summary["steps"] == 3 and "semantic_cosine" in summary["final"]
    assert RunFolder(folder / "run").best((MODEL,)).meta["dimension"] == 9
    stored = [np.load(path) for path in (folder / "cache").glob("*/vectors.npy")]
    texts, _, _ = read_sets(with_function(folder))
    expected = unit_rows(letters(texts.texts))
    assert any(np.array_equal(rows, expected) for rows in stored)


def test_a_run_that_is_resumed_asks_for_its_function_again(taught):
    """The name in the run's folder is compared and never imported."""
    folder, _ = taught
    summary = folder / "run" / "summary.json"
    text = summary.read_text()
    summary.unlink()
    with pytest.raises(InputError, match="nowhere_to_import:letters, which is never"):
        run(with_function(folder))
    assert run(with_function(folder), function=letters)["status"] == "finished"
    summary.write_text(text)


def test_another_version_of_the_function_is_another_run(taught):
    with pytest.raises(InputError, match="teacher.version was '', got '2'"):
        run(with_function(taught[0], version="2"), function=letters)


def test_a_function_beside_another_kind_of_teacher_is_refused(tmp_path):
    with pytest.raises(InputError, match="function must be unset: the teacher is mini"):
        run(small(tmp_path), function=letters)


def test_a_backend_that_is_not_there_is_refused_and_nothing_is_written(tmp_path):
    missing = "cuda" if mx.metal.is_available() else "metal"
    config = small(tmp_path, {"trainer.backend": missing})
    with pytest.raises(InputError, match=f"backend {missing} must be available"):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def left_open(tmp_path_factory):
    """A run whose number format and lengths were left open, and its first config."""
    folder = tmp_path_factory.mktemp("open")
    changes = {"precision.dtype": "auto", "data.buckets": [], "trainer.max_steps": 2}
    run(small(folder, changes | {"trainer.compile": True}))
    return folder, changes


def test_a_run_settles_what_was_left_open_and_says_so(left_open):
    config = RunFolder(left_open[0] / "run").read_config()
    assert config.precision.dtype == device.fast_format()
    assert 2 <= len(config.data.buckets) <= 9
    assert config.data.buckets[-1] == config.data.max_length == 32


def test_a_resumed_run_keeps_what_it_settled(left_open, monkeypatch):
    """On another device, that would choose another format, too."""
    folder, changes = left_open
    monkeypatch.setattr(device, "fast_format", lambda: "bfloat16")
    again = run(small(folder, changes | {"trainer.compile": True}))
    assert again["status"] == "finished"
    assert RunFolder(folder / "run").read_config().precision.dtype == "float32"


def test_an_explicit_format_is_another_run(left_open):
    folder, changes = left_open
    with pytest.raises(InputError, match="precision.dtype was 'float32'"):
        run(small(folder, changes | {"precision.dtype": "bfloat16"}))


def test_an_update_is_traced_at_most_8_times_whatever_the_lengths():
    """The chosen lengths bound the shapes, and every shape is traced once."""
    settings = make_config({"data.max_length": 64}).data
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    chosen = lengths_for([np.zeros(n, np.int32) for n in lengths], settings)
    assert chosen[-2:] == [int(lengths.max()), 64] and len(chosen) == 9
    config = make_config()
    stepper = make_stepper(config)
    for length in (*chosen[:-1], *chosen[:-1]):
        batch = Batch(
            np.ones((2, length), np.int32),
            np.ones((2, length), np.float32),
            np.full((2, E), E**-0.5, np.float32),
        )
        step(stepper, "distillation", batch)
    assert stepper.traces == {"distillation update": 8}


def test_a_shortened_size_that_is_not_shorter_writes_nothing(tmp_path):
    config = small(tmp_path)
    config.objectives.distillation.matryoshka = [64, 384]
    with pytest.raises(InputError, match="matryoshka must be below the 384 numbers"):
        run(config)
    assert not (tmp_path / "run").exists()

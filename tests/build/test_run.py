"""What a run does with its configuration before the first update."""

import os
import shutil
import signal

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.data import read_sets
from energyflow_mlx.build.run import lengths_for, run
from energyflow_mlx.config import CorrectionConfig, TeacherConfig, TokenizerConfig
from energyflow_mlx.data.batching import Batch
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import DiskError, InputError
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime import device, disk, distributed
from energyflow_mlx.teacher import teacher_from
from energyflow_mlx.training.loop import Trainer
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
    original, cache = mx.set_memory_limit, mx.set_cache_limit(0)
    mx.set_memory_limit = lambda size: set_to.append(size) or original(size)
    try:
        config = small(folder, {"trainer.memory_limit_gb": 3.0})
        config.trainer.cache_limit_gb = 0.25
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
        set_to.append(mx.set_cache_limit(cache))
    return folder, summary, set_to


def test_the_memory_limits_of_the_configuration_are_set(trained):
    assert trained[2] == [3 * 2**30, 2**28]


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


@pytest.fixture(scope="module")
def prolonged(tmp_path_factory):
    """A run of four updates that then went on to ten, and what the seam showed."""
    folder = tmp_path_factory.mktemp("prolonged")
    run(small(folder, FOUR))
    first = RunFolder(folder / "run").latest().arrays
    return folder, first, run(small(folder, TEN))


FOUR = {"trainer.max_steps": 4, "trainer.log_every": 1, "data.captions": 150}
TEN = FOUR | {"trainer.max_steps": 10}


def rates(folder):
    """Learning rate of each update, from the log."""
    records = read_metrics(folder / "run" / "metrics.jsonl")
    rows = [r for r in records if r["kind"] == "train"]
    return [next(v for k, v in row.items() if k.endswith("_lr")) for row in rows]


def test_a_finished_run_goes_on_to_a_later_end(prolonged, capsys):
    folder, _, summary = prolonged
    assert (summary["status"], summary["steps"]) == ("finished", 10)
    run_folder = RunFolder(folder / "run")
    assert run_folder.read_config().trainer.max_steps == 10
    assert run_folder.read_summary() == summary
    assert len(rates(folder)) == 10
    before = run_folder.metrics.read_bytes()
    assert run(small(folder, TEN)) == summary
    assert "nothing to do" in capsys.readouterr().out
    assert run_folder.metrics.read_bytes() == before


def test_from_the_seam_on_the_rates_are_those_of_the_longer_run(prolonged, tmp_path):
    run(small(tmp_path, TEN))
    whole, ours = rates(tmp_path), rates(prolonged[0])
    assert ours[4:] == whole[4:]
    assert ours[:4] != whole[:4]  # those of a run of four updates


def test_a_prolonged_run_is_the_same_when_it_is_interrupted(
    prolonged, tmp_path, monkeypatch
):
    """A signal in the middle: the update in flight is finished, saved and kept."""
    run(small(tmp_path, FOUR))
    original = Trainer.values_of

    def values_of(trainer, submitted):
        if submitted.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer, submitted)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "values_of", values_of)
        run(small(tmp_path, TEN))
    run_folder = RunFolder(tmp_path / "run")
    assert 6 <= max(run_folder.steps()) <= 7 and not run_folder.summary.exists()
    run(small(tmp_path, TEN))
    ours, theirs = (
        RunFolder(f / "run").latest().arrays for f in (tmp_path, prolonged[0])
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(np.array(ours[name]), np.array(theirs[name])), name
    assert rates(tmp_path) == rates(prolonged[0])


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch):
    original = Trainer.values_of

    def values_of(trainer, submitted):
        if submitted.step == 2:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer, submitted)

    monkeypatch.setattr(Trainer, "values_of", values_of)
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path, TEN))
    assert RunFolder(tmp_path / "run").steps() == []


def test_an_end_before_what_is_done_is_refused_and_nothing_is_written(prolonged):
    folder = prolonged[0]
    files = {p: p.read_bytes() for p in (folder / "run").rglob("*.json*")}
    with pytest.raises(InputError, match="has done 10 updates; .* as many, got 4"):
        run(small(folder, FOUR))
    assert files == {p: p.read_bytes() for p in (folder / "run").rglob("*.json*")}


def test_a_run_cut_short_while_it_was_prolonged_is_not_over(prolonged, tmp_path):
    """The summary goes before the new length is written."""
    shutil.copytree(prolonged[0] / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    config = small(tmp_path, TEN | {"trainer.max_steps": 11})
    folder.begin_again(config)
    assert not folder.summary.exists()
    assert run(config)["steps"] == 11


def test_a_run_that_stopped_early_has_its_patience_back(tmp_path):
    """Nothing improves: each time it stops after the validations it may bear."""
    patient = {"trainer.patience": 2, "trainer.validate_every": 1}
    patient |= {"trainer.min_delta": 10.0, "trainer.decode_samples": 0}
    first = run(small(tmp_path, patient | {"trainer.max_steps": 8}))
    assert (first["status"], first["steps"]) == ("stopped early", 3)
    again = run(small(tmp_path, patient | {"trainer.max_steps": 9}))
    assert (again["status"], again["steps"]) == ("stopped early", 5)


def test_a_start_that_was_cut_short_leaves_a_folder_to_start_in(tmp_path):
    """The tokenizer is written before the configuration."""
    folder = tmp_path / "run"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / ".tmp-1-config.json").touch()
    assert run(small(tmp_path))["status"] == "finished"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match="must be empty or a run folder"):
        run(small(tmp_path, {"run.dir": str(tmp_path / "other")}))


def test_a_loaded_run_knows_what_it_trained_and_how_its_text_is_spelt(trained):
    record = load(trained[0] / "run").record
    assert record.trained == {"encoder", "decoder", "shared"} and record.step == 1
    assert 1.0 <= record.tokens_per_word < 1.2


def test_a_half_that_was_never_trained_is_refused_by_name(tmp_path):
    config = small(tmp_path, {"share": "none"})
    config.objectives.reconstruction = None
    run(config)
    codec = load(tmp_path / "run")
    assert codec.encode(["A dog runs."]).shape == (1, 384)
    message = r"\[decode\] the decoder of this model was never trained; .* encoder"
    with pytest.raises(InputError, match=message):
        codec.decode(np.eye(384)[:1])


def test_foreign_text_warns_when_a_loaded_run_encodes_it(trained, caplog):
    codec = load(trained[0] / "run")
    codec.encode(["A dog runs on the beach."] * 20)
    assert not caplog.records
    codec.encode(["Regulators rejected pharmaceutical companies' applications."] * 3)
    codec.encode(["Regulators rejected pharmaceutical companies' applications."] * 3)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "is foreign to the model's vocabulary" in caplog.text


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


def test_examples_of_its_own_and_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "join", lambda: distributed.Group(0, 2))
    for key in ("data.own_pairs", "objectives.correction"):
        config = small(tmp_path, TEN)
        if key == "data.own_pairs":
            config.data.own_pairs.share = 0.5
        else:
            config.objectives.correction = CorrectionConfig(lr=1e-3)
            config.decoder.corrector = True
        with pytest.raises(InputError, match=f"{key} must be trained by one process, "):
            run(config)
        assert not (tmp_path / "run").exists()


def test_room_is_asked_for_what_a_run_will_have_made_itself(tmp_path, monkeypatch):
    """A GB is enough for its weights, and not for a ring of two million pairs."""
    monkeypatch.setattr(disk, "free_bytes", lambda _: 10**9)
    config = small(tmp_path, TEN)
    config.data.own_pairs.share = 0.5
    config.data.own_pairs.ring = 2**21
    with pytest.raises(DiskError, match="more checkpoints, as trainer.keep="):
        run(config)
    assert not (tmp_path / "run" / "config.json").exists()

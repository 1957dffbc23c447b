"""A teacher gives one vector per sentence, or raises."""

import gzip
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher import (
    PrecomputedTeacher,
    Teacher,
    load_teacher,
    teacher_from,
)
from energyflow_mlx.teacher.bert import BertEncoder
from energyflow_mlx.teacher.folder import _find
from tests.teacher.tiny import read_golden, write_teacher

TEXTS = ["a man sits", "the big dog runs", "", "a man sits", "A  Man sits", "cat"]


@pytest.fixture
def teacher(teacher_folder):
    return load_teacher(teacher_folder, 16, normalize=True)


def test_teacher_describes_itself(teacher, teacher_folder):
    assert isinstance(teacher, Teacher)
    assert (teacher.dimension, teacher.normalized) == (24, True)
    assert teacher.tokenizer_path == teacher_folder / "tokenizer.json"
    table = read_golden("bert")[0]["embeddings.word_embeddings.weight"]
    assert np.array_equal(teacher.word_embeddings, np.array(table))


def test_vectors_have_unit_length_when_normalized(teacher):
    vectors = teacher.encode(TEXTS, batch_size=64)
    assert vectors.shape == (6, 24) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_raw_vectors_point_the_same_way(teacher, teacher_folder):
    raw = load_teacher(teacher_folder, 16, normalize=False)
    vectors = raw.encode(TEXTS, batch_size=64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert not raw.normalized and np.ptp(norms) > 0.01
    assert np.abs(vectors / norms - teacher.encode(TEXTS, batch_size=64)).max() < 1e-6


def test_sentence_alone_equals_sentence_in_a_batch(teacher):
    together = teacher.encode(TEXTS, batch_size=64)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.abs(teacher.encode([text], batch_size=64)[0] - vector).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing(teacher, batch_size):
    difference = teacher.encode(TEXTS, batch_size=batch_size) - teacher.encode(
        TEXTS, batch_size=64
    )
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batch_size_reaches_the_forward_pass(teacher, size, monkeypatch):
    heights, forward = [], BertEncoder.__call__

    def spy(self, ids, mask):
        heights.append(ids.shape[0])
        return forward(self, ids, mask)

    monkeypatch.setattr(BertEncoder, "__call__", spy)
    texts = [f"the {letter} runs" for letter in "bcdefghijkl"]
    teacher.encode(texts, batch_size=size)
    assert max(heights) == size and len(heights) == -(-len(texts) // size)


@pytest.mark.parametrize(("length", "normalize"), [(6, False), (16, True)])
def test_a_teacher_is_what_its_settings_say(teacher_folder, length, normalize):
    settings = TeacherConfig(
        str(teacher_folder), max_length=length, normalize=normalize
    )
    teacher = teacher_from(settings)
    same = load_teacher(teacher_folder, length, normalize=normalize)
    assert teacher.fingerprint == same.fingerprint
    assert (teacher.max_length, teacher.normalized) == (length, normalize)
    vectors = teacher.encode(TEXTS, batch_size=64)
    is_unit = np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert is_unit == normalize


def test_equal_sentences_are_computed_once(teacher):
    calls = []
    vectors = teacher.encode(
        TEXTS, progress=lambda *done: calls.append(done), batch_size=64
    )
    assert calls[-1] == (5, 5)
    assert np.array_equal(vectors[0], vectors[3])


def test_progress_rises_to_the_total(teacher):
    calls = []
    teacher.encode(TEXTS, batch_size=2, progress=lambda *done: calls.append(done))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (5, 5)


def test_no_sentences_give_no_vectors(teacher):
    assert teacher.encode([], batch_size=64).shape == (0, 24)


def test_single_string_is_not_a_list(teacher):
    with pytest.raises(TypeError, match="must be a list of strings"):
        teacher.encode("a man sits", batch_size=64)


def test_long_text_is_cut_and_keeps_its_end_token(teacher_folder):
    """Cutting the end off alone would lose [SEP]."""
    teacher = load_teacher(teacher_folder, 6, normalize=True)
    long = "the man sits in the park"
    assert teacher.tokenize([long])[0].tolist()[-1] == 3
    kept = teacher.encode(["the man sits in"], batch_size=64)
    assert np.abs(teacher.encode([long], batch_size=64) - kept).max() < 1e-6


def test_one_truncation_length_is_part_of_the_fingerprint(teacher_folder):
    prints = {
        load_teacher(teacher_folder, length, normalize=normalize).fingerprint
        for length in (8, 16)
        for normalize in (True, False)
    }
    assert len(prints) == 4


def test_fingerprint_follows_the_weights_not_the_place(teacher, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(teacher.tokenizer_path.parent, moved)
    assert load_teacher(moved, 16, normalize=True).fingerprint == teacher.fingerprint
    weights, _, _ = read_golden("bert")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + 1e-3
    mx.save_safetensors(str(moved / "model.safetensors"), weights)
    assert load_teacher(moved, 16, normalize=True).fingerprint != teacher.fingerprint


def test_damaged_weights_raise_instead_of_giving_zeros(tmp_path):
    """A failing teacher must raise; nothing may train on its output."""
    folder = write_teacher(tmp_path / "tiny")
    weights, _, _ = read_golden("bert")
    name = "encoder.layer.0.output.dense.bias"
    weights[name] = mx.full(weights[name].shape, float("nan"))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(InputError, match="safetensors: .* must be finite"):
        load_teacher(folder, 16, normalize=True).encode(TEXTS, batch_size=64)


def test_token_outside_the_models_vocabulary_is_named(tmp_path):
    """An id beyond the table would read arbitrary memory."""
    folder = write_teacher(tmp_path / "tiny", vocab_size=20)
    weights, _, _ = read_golden("bert")
    name = "embeddings.word_embeddings.weight"
    weights[name] = weights[name][:20]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(InputError, match="token id [2-4][0-9] is outside .* of 20"):
        load_teacher(folder, 16, normalize=True).encode(["abc"], batch_size=64)


def save(path, rows):
    np.save(path, rows)
    return path


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_precomputed_vectors_are_read_by_position(tmp_path, rows):
    teacher = PrecomputedTeacher(save(tmp_path / "v.npy", rows), normalize=False)
    assert (teacher.dimension, teacher.normalized) == (3, False)
    assert np.array_equal(teacher.vectors(5), rows)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_precomputed_vectors_become_unit_float32(tmp_path, rows, dtype):
    teacher = PrecomputedTeacher(
        save(tmp_path / "v.npy", rows.astype(dtype)), normalize=True
    )
    vectors = teacher.vectors(5)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_precomputed_vectors_need_one_row_per_sentence(tmp_path, rows):
    teacher = PrecomputedTeacher(save(tmp_path / "v.npy", rows), normalize=True)
    with pytest.raises(InputError, match=r"v\.npy: needs one row per sentence, 6, got"):
        teacher.vectors(6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3), np.int32), r"expected floats \[N, E\], got int32 \[2, 3\]"),
        (np.ones(4, np.float32), r"expected floats \[N, E\], got float32 \[4\]"),
        (np.array([["a", 1]], object), r"expected floats \[N, E\], got object"),
        (np.array([[1, 1], [1, np.nan]], np.float32), "row 1 must be finite"),
        (np.array([[1, 1], [0, 0]], np.float32), "row 1 must be finite with a norm"),
        (np.array([[1, 1], [1e9, 0]], np.float32), r"got norm 1e\+09"),
    ],
)
def test_unusable_precomputed_vectors_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        PrecomputedTeacher(save(tmp_path / "v.npy", rows), normalize=True)


def test_missing_or_damaged_precomputed_file_is_refused(tmp_path, rows):
    with pytest.raises(InputError, match="v.npy: no such file"):
        PrecomputedTeacher(tmp_path / "v.npy", normalize=True)
    path = save(tmp_path / "v.npy", rows)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="expected 188 bytes .* got 180"):
        PrecomputedTeacher(path, normalize=True)
    with pytest.raises(InputError, match="expected a .npy file"):
        PrecomputedTeacher(tmp_path / "v.efb", normalize=True)


@pytest.fixture(scope="module")
def minilm():
    try:
        _find("minilm")
    except InputError as error:
        pytest.skip(str(error))
    return load_teacher("minilm", 128, normalize=True)


def test_minilm_equals_pytorch_on_stored_vectors(minilm, shared_folder: Path):
    data = shared_folder / "data"
    with gzip.open(data / "captions_val.txt.gz", "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()[:200]
    stored = np.load(data / "minilm" / "captions_val.npy")[:200].astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    assert (minilm.encode(texts, batch_size=64) * stored).sum(1).min() > 0.99999


def test_minilm_orders_pairs_as_people_do(minilm, shared_folder: Path):
    path = shared_folder / "data" / "sts" / "stsb_test.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[:150]
    scores, first, second = zip(*(line.split("\t") for line in lines), strict=True)
    vectors = minilm.encode([*first, *second], batch_size=64)
    cosine = (vectors[: len(lines)] * vectors[len(lines) :]).sum(1)
    assert np.corrcoef(cosine, [float(score) for score in scores])[0, 1] > 0.8


def test_minilm_prefers_the_paraphrase(minilm):
    a, b, c = minilm.encode(
        ["A man is playing a guitar.", "Someone plays guitar.", "A red bus stops."],
        batch_size=64,
    )
    assert a @ b > 0.7 > 0.2 > a @ c
    assert (minilm.dimension, minilm.normalized) == (384, True)

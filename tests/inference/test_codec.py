"""A model as an object: what it lacks, what it refuses, what its texts depend on."""

import numpy as np
import pytest

from energyflow_mlx.data import chunks
from energyflow_mlx.errors import InputError
from energyflow_mlx.text.generation import Decoding
from tests.build.tiny import (
    SENTENCES,
    E,
    make_codec,
    make_config,
    teacher_vectors,
    trained_codec,
)


def unit_rows(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, E)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("parts", "call", "message"),
    [
        ({"lattice"}, lambda c: c.encode(["a"]), r"\[encode\] .* no encoder"),
        ({"decoder", "shared"}, lambda c: c.encode(["a"]), r"\[encode\] .* no encoder"),
        ({"lattice"}, lambda c: c.decode(unit_rows(1)), r"\[decode\] .* no decoder"),
        ({"encoder", "shared"}, lambda c: c.decode(unit_rows(1)), "no decoder"),
        (
            {"decoder", "shared"},
            lambda c: c.decode(unit_rows(1), corrections=1),
            r"\[decode with corrections\] this model has no encoder",
        ),
        (
            {"encoder", "decoder", "shared"},
            lambda c: c.transform(unit_rows(1)),
            r"\[transform\] this model has no lattice",
        ),
    ],
)
def test_a_call_says_what_the_model_lacks(parts, call, message):
    task = "flow" if "lattice" in parts else "ab"
    with pytest.raises(InputError, match=message):
        call(make_codec(make_config(experiment=task), parts))


def test_a_decoder_alone_decodes_and_an_encoder_alone_encodes():
    assert len(make_codec(parts={"decoder", "shared"}).decode(unit_rows(2))) == 2
    assert make_codec(parts={"encoder", "shared"}).encode(["a dog"]).shape == (1, E)


def test_a_lattice_transforms_vectors_in_batches():
    codec = make_codec(make_config(experiment="flow"))
    rows = unit_rows(5)
    whole, parts = codec.transform(rows), codec.transform(rows, batch_size=2)
    assert whole.shape == (5, E)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 300])
def test_ids_outside_the_token_table_are_refused_with_their_row(bad):
    codec = make_codec()
    rows = [np.array([2, 5, 3]), np.array([2, bad, 3])]
    low, high = min(bad, 2), max(bad, 3)
    message = rf"row 1: token ids must be in \[0, 300\), got {low} to {high}"
    with pytest.raises(InputError, match=message):
        codec.encode_ids(rows, batch_size=4, normalize=True)


@pytest.mark.parametrize("task", ["ab", "flow_text"])
def test_a_vector_does_not_depend_on_the_sentences_beside_it(task, monkeypatch):
    codec = make_codec(make_config(experiment=task))
    texts = [" ".join(SENTENCES[: i % 5 + 1])[: 9 * i + 1] for i in range(20)]
    texts[7] = ""
    whole = codec.encode(texts)
    assert len(np.unique(whole.round(4), axis=0)) >= 10
    monkeypatch.setattr(chunks, "WINDOW", 6)
    for size in (0, 1, 3):
        np.testing.assert_allclose(
            codec.encode(texts, batch_size=size), whole, atol=1e-6
        )
    turned = codec.encode(texts[::-1])[::-1]
    np.testing.assert_allclose(turned, whole, atol=1e-6)


def test_no_sentence_gives_no_vector():
    codec = make_codec()
    assert codec.encode([]).shape == (0, E)
    assert codec.encode_ids([], normalize=True).shape == (0, E)
    assert list(codec.encode_windows(iter([[], []]))) == []


def test_a_negative_batch_size_is_refused():
    with pytest.raises(InputError, match="batch_size must be >= 0, got -1"):
        make_codec().encode(["a"], batch_size=-1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 1.0}, {"beams": 3}],
    ids=["greedy", "sample", "beam"],
)
def test_a_text_does_not_depend_on_how_the_list_is_cut(settings):
    codec, rows = make_codec(), unit_rows(9)
    whole = codec.decode(rows, max_length=6, **settings)
    assert len(set(whole)) > 3
    assert codec.decode(rows, max_length=6, batch_size=2, **settings) == whole
    decoding = Decoding(max_length=6, **settings)
    cut = [
        text
        for start, stop in ((0, 4), (4, 9))
        for text in codec.decode_rows(rows[start:stop], decoding, first_row=start)
    ]
    assert cut == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 2.0}, "top_p must be <= 1, got 2.0"),
        ({"batch_size": -1}, "batch_size must be >= 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_codec().decode(unit_rows(1), **settings)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="tempratur"):
        make_codec().decode(unit_rows(1), tempratur=1.0)


# Iterative correction --------------------------------------------------------------


def unseen():
    """Vectors of sentences that the decoder did not learn."""
    texts = [
        f"{subject} {verb} {where}"
        for subject in ("a cat", "two dogs", "the dog")
        for verb in ("sleeps", "runs")
        for where in ("in the home.", "at park.")
    ]
    return teacher_vectors(texts)


def cosines(codec, texts, vectors):
    return (codec.encode(texts) * vectors).sum(axis=1)


def test_a_trained_codec_reads_its_sentences_back():
    codec = trained_codec()
    assert codec.decode(teacher_vectors(SENTENCES)) == SENTENCES


def test_corrections_never_lower_the_cosine_of_a_row_and_raise_some():
    codec, vectors = trained_codec(), unseen()
    rounds = [codec.decode(vectors, max_length=16, corrections=n) for n in (0, 1, 4)]
    first, second, last = (cosines(codec, texts, vectors) for texts in rounds)
    assert (second >= first - 1e-5).all() and (last >= second - 1e-5).all()
    assert (last > first + 0.01).sum() >= 2


def test_corrections_keep_the_length_of_the_vectors():
    """A teacher's vectors need not have length 1: the decoder hears what it learnt."""
    codec, heard = trained_codec(), []
    condition = codec.model.decoder.condition

    class Watched(type(condition)):
        def __call__(self, z):
            heard.append(np.array(z))
            return super().__call__(z)

    condition.__class__ = Watched
    try:
        codec.decode(3 * unseen(), max_length=8, corrections=2)
    finally:
        condition.__class__ = Watched.__bases__[0]
    lengths = [np.linalg.norm(z, axis=1) for z in heard]
    assert len(lengths) == 3
    np.testing.assert_allclose(lengths, 3.0, atol=1e-4)

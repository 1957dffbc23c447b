"""``encode`` takes what sentence-transformers' takes, and means the same by it."""

import inspect
import itertools
import os
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.data import chunks
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec, encoder
from energyflow_mlx.inference.form import VectorForm, in_precision
from tests.build.tiny import SENTENCES, make_codec, make_config
from tests.commands import CHECKOUT

WIDE = {"share": "none", "encoder__dim": 24}


@pytest.fixture(scope="module")
def codec():
    return make_codec(make_config(**WIDE))


@pytest.fixture(scope="module")
def vectors(codec):
    return codec.encode(SENTENCES)


def test_a_string_gives_one_vector_and_a_list_several(codec, vectors):
    assert vectors.shape == (len(SENTENCES), 12) and vectors.dtype == np.float32
    one = codec.encode(SENTENCES[3])
    assert one.shape == (12,)
    np.testing.assert_allclose(one, vectors[3], atol=1e-6)
    assert codec.encode([SENTENCES[3]]).shape == (1, 12)


def test_vectors_have_length_1_unless_asked_otherwise(codec, vectors):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    raw = codec.encode(SENTENCES, normalize_embeddings=False)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 0.01
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(raw / lengths, vectors, atol=1e-6)


def test_truncation_comes_before_the_scaling(codec, vectors):
    cut = codec.encode(SENTENCES, truncate_dim=5)
    first = vectors[:, :5]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    raw = codec.encode(SENTENCES, truncate_dim=5, normalize_embeddings=False)
    whole = codec.encode(SENTENCES, normalize_embeddings=False)
    np.testing.assert_array_equal(raw, whole[:, :5])
    np.testing.assert_array_equal(codec.encode(SENTENCES, truncate_dim=99), vectors)


def test_arrays_are_of_the_kind_asked_for(codec, vectors):
    tensor = codec.encode(SENTENCES, convert_to_tensor=True)
    assert isinstance(tensor, mx.array) and tensor.shape == vectors.shape
    rows = codec.encode(SENTENCES, convert_to_numpy=False)
    assert isinstance(rows, list) and all(isinstance(row, mx.array) for row in rows)
    np.testing.assert_array_equal(np.array(tensor), vectors)
    np.testing.assert_array_equal(np.stack([np.array(row) for row in rows]), vectors)
    one = codec.encode(SENTENCES[0], convert_to_tensor=True)
    assert isinstance(one, mx.array) and one.shape == (12,)


def test_precisions_are_those_of_sentence_transformers(codec):
    texts = generate_captions(120, seed=2)
    whole = codec.encode(texts, truncate_dim=8)
    low, high = whole.min(axis=0), whole.max(axis=0)
    for precision, dtype in (("int8", np.int8), ("uint8", np.uint8)):
        found = codec.encode(texts, truncate_dim=8, precision=precision)
        assert found.dtype == dtype and found.shape == whole.shape
        steps = found.astype(np.float32) - np.iinfo(dtype).min
        back = low + (steps + 0.5) * (high - low) / 255
        assert np.abs(back - whole).max() <= 0.51 * ((high - low) / 255).max()
    packed = codec.encode(texts, truncate_dim=8, precision="ubinary")
    signed = codec.encode(texts, truncate_dim=8, precision="binary")
    assert packed.dtype == np.uint8 and signed.dtype == np.int8
    assert packed.shape == signed.shape == (120, 1)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1), whole > 0)
    np.testing.assert_array_equal(signed, packed.astype(np.int16) - 128)


def test_precisions_equal_the_librarys_own():
    library = pytest.importorskip(
        "sentence_transformers.util.quantization", reason="needs sentence-transformers"
    )
    rows = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    for precision in ("int8", "uint8", "binary", "ubinary"):
        expected = library.quantize_embeddings(rows, precision)
        found = in_precision(rows, precision)
        assert found.dtype == expected.dtype
        # At the edge of a step the last bit of a float decides.
        off = np.abs(found.astype(int) - expected.astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 0.001


def test_a_number_equal_in_all_rows_has_a_step_too():
    for precision in ("int8", "uint8"):
        assert in_precision(np.ones((3, 2), np.float32), precision).max() <= 0
        assert in_precision(np.zeros((0, 8), np.float32), precision).shape == (0, 8)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"precision": "int4"}, "precision must be one of float32, int8, .* got int4"),
        ({"truncate_dim": 0}, "truncate_dim must be >= 1, got 0"),
        ({"precision": "binary"}, "a multiple of 8 numbers, got 12"),
        ({"batch_size": -1}, "batch_size must be >= 0, got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused(codec, settings, named):
    with pytest.raises(InputError, match=named):
        codec.encode(SENTENCES, **settings)


def test_an_unknown_setting_is_refused(codec):
    with pytest.raises(TypeError, match="prompt_name"):
        codec.encode(SENTENCES, prompt_name="query")


def test_a_bar_counts_the_sentences_on_standard_error(codec, vectors, capsys):
    found = codec.encode(SENTENCES, show_progress_bar=True)
    np.testing.assert_array_equal(found, vectors)
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err
    codec.encode(SENTENCES)
    assert capsys.readouterr().err == ""


def test_similarity_is_the_cosine(codec, vectors):
    a, b = 3 * vectors[:4], vectors[2:9]
    np.testing.assert_allclose(codec.similarity(a, b), vectors[:4] @ b.T, atol=1e-6)
    assert codec.similarity(vectors[0], vectors[1]).shape == (1, 1)
    pairs = codec.similarity_pairwise(a, b[:4])
    np.testing.assert_allclose(pairs, (vectors[:4] * b[:4]).sum(axis=1), atol=1e-6)
    with pytest.raises(ValueError, match=r"one shape, got \[4, 12\] and \[7, 12\]"):
        codec.similarity_pairwise(a, b)


def test_a_stream_gives_vectors_in_order_and_reads_ahead_no_further_than_it_says(
    codec, monkeypatch
):
    monkeypatch.setattr(encoder, "WINDOW", 7)
    monkeypatch.setattr(chunks, "_WINDOWS_AHEAD", 2)
    texts = generate_captions(100, seed=4)
    expected = codec.encode(texts)
    read = []

    def one_by_one():
        for text in itertools.cycle(texts):
            read.append(text)
            yield text

    stream = codec.encode_stream(one_by_one())
    found = np.stack(list(itertools.islice(stream, 100)))
    stream.close()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(read) <= 100 + 7 * 7


def test_a_stream_ends_with_its_sentences(codec, vectors):
    found = list(codec.encode_stream(iter(SENTENCES), normalize_embeddings=True))
    np.testing.assert_allclose(np.stack(found), vectors, atol=1e-6)
    assert list(codec.encode_stream([])) == []


# What sentence-transformers' encode takes besides ``self``, and what ours makes of it.
LIBRARY = {
    "inputs": "same",
    "prompt_name": "not applicable",
    "prompt": "not applicable",
    "batch_size": "differs",
    "show_progress_bar": "differs",
    "output_value": "not applicable",
    "precision": "same",
    "convert_to_numpy": "same",
    "convert_to_tensor": "differs",
    "device": "not applicable",
    "normalize_embeddings": "differs",
    "truncate_dim": "same",
    "pool": "not applicable",
    "chunk_size": "not applicable",
}


def ours():
    """Names that our ``encode`` takes."""
    named = inspect.signature(SentenceCodec.encode).parameters
    return ({"inputs", *named} - {"self", "sentences", "form"}) | set(
        VectorForm.__dataclass_fields__
    )


def test_what_is_taken_is_what_is_not_called_inapplicable():
    taken = {name for name, kind in LIBRARY.items() if kind != "not applicable"}
    assert taken == ours()


def test_the_table_is_that_of_the_library():
    library = pytest.importorskip("sentence_transformers", reason="not installed")
    named = inspect.signature(library.SentenceTransformer.encode).parameters
    assert named.keys() - {"self", "kwargs"} == LIBRARY.keys()


def test_a_model_in_another_thread_is_refused_with_what_to_do(codec):
    """MLX itself fails there, in many words and not on the first call."""
    said = []

    def call():
        for use in (codec.encode, codec.decode):
            with pytest.raises(RuntimeError, match="the thread that loaded it"):
                use(["A dog runs."])
            said.append(use)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(said) == 2


def test_one_thread_serves_all_others_as_documented(codec, tmp_path):
    page = (CHECKOUT / "docs" / "share.md").read_text(encoding="utf-8")
    (block,) = (b for b in page.split("```python\n") if b.startswith("import queue"))
    code = block.split("```")[0].replace("print(", "print(*", 1)
    codec.save_pretrained(tmp_path / "runs" / "mine")
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"1 {codec.dimension}\n"), done.stderr

"""The encode command asks the model what it can take."""

import gzip

import numpy as np
import pytest

from energyflow_mlx import encode
from energyflow_mlx.data.dataset import SentenceSet, write_efb
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.errors import InputError
from tests.build.tiny import SENTENCES, E, make_codec, make_config


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on a file of that name; returns what it wrote."""

    def run(codec, name, **settings):
        monkeypatch.setattr("energyflow_mlx.build.codec.load", lambda *paths: codec)
        output = str(tmp_path / "out.npy")
        source = str(tmp_path / name)
        encode.encode_file(
            encode.EncodeArgs(run="run", input=source, output=output, **settings)
        )
        return np.load(output)

    np.save(tmp_path / "in.npy", np.eye(E, dtype=np.float32)[:5])
    (tmp_path / "in.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    return run


def test_texts_of_a_file_become_the_vectors_of_the_codec(command, monkeypatch):
    monkeypatch.setattr(encode, "WINDOW", 7)
    codec = make_codec()
    for normalize in (True, False):
        expected = codec.encode(SENTENCES, normalize_embeddings=normalize)
        found = command(codec, "in.txt", normalize=normalize, batch_size=4)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_kind_of_file_gives_the_same_vectors(command, tmp_path):
    """Those that training reads; records are not lines, and a header is no sentence."""
    codec = make_codec()
    expected = codec.encode(SENTENCES)
    plain = "\n".join(SENTENCES) + "\n"
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(plain.encode()))
    write_jsonl(tmp_path / "in.jsonl", texts=SENTENCES)
    table = "".join(f'{n},"{text}"\n' for n, text in enumerate(SENTENCES))
    (tmp_path / "in.csv").write_text("id,text\n" + table)
    tabbed = "".join(f"{text}\t1\n" for text in SENTENCES)
    (tmp_path / "in.tsv").write_text("text\tid\n" + tabbed)
    vectors = np.eye(len(SENTENCES), dtype=np.float32)
    write_efb(tmp_path / "in.efb", SentenceSet(SENTENCES, None, vectors))
    for name in ("in.txt.gz", "in.jsonl", "in.csv", "in.tsv", "in.efb"):
        np.testing.assert_allclose(command(codec, name), expected, atol=1e-5)


def test_the_column_of_the_run_is_read_unless_another_is_named(command, tmp_path):
    codec = make_codec(make_config(data__text_column="words"))
    table = "".join(f"{text},A red car.\n" for text in SENTENCES)
    (tmp_path / "in.csv").write_text("words,other\n" + table)
    expected = codec.encode(SENTENCES)
    np.testing.assert_allclose(command(codec, "in.csv"), expected, atol=1e-5)
    found = command(codec, "in.csv", text_column="other")
    np.testing.assert_allclose(found[:1], codec.encode(["A red car."]), atol=1e-5)


def test_vectors_go_through_a_lattice_alone(command):
    codec = make_codec(make_config(experiment="flow"))
    expected = codec.transform(np.eye(E, dtype=np.float32)[:5])
    found = command(codec, "in.npy", normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("task", ["ab", "flow_text"])
def test_vectors_are_refused_by_a_model_that_reads_text(command, task):
    with pytest.raises(InputError, match="must be text: only a model without an enco"):
        command(make_codec(make_config(experiment=task)), "in.npy")

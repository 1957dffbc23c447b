"""The encode command asks the model what it can take."""

import numpy as np
import pytest

from energyflow_mlx import encode
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


def test_vectors_go_through_a_lattice_alone(command):
    codec = make_codec(make_config(experiment="flow"))
    expected = codec.transform(np.eye(E, dtype=np.float32)[:5])
    found = command(codec, "in.npy", normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("task", ["ab", "flow_text"])
def test_vectors_are_refused_by_a_model_that_reads_text(command, task):
    with pytest.raises(InputError, match="must be text: only a model without an enco"):
        command(make_codec(make_config(experiment=task)), "in.npy")

"""An encoder in another runtime: the same vectors, without this package."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.formats import onnx_folder, onnx_nodes
from energyflow_mlx.inference.formats.card import CardFacts
from tests.build.tiny import make_codec as make_other
from tests.build.tiny import make_config
from tests.inference.formats.models import SENTENCES, make_codec

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

VARIANTS = {
    "default": {},
    "tcn_small": {"encoder__embedding_rank": 8, "encoder__pooling": "gated"},
    "not causal": {"encoder__causal": False, "share": "none"},
    "context": {"encoder__causal": False, "encoder__context": True},
    "tanh": {"encoder__gelu": "tanh", "decoder__gelu": "tanh"},
    "all shared": {"share": "all"},
    "bounded": {"encoder__output_tanh": True},
    "five taps": {"encoder__kernel_size": 5, "decoder__kernel_size": 5},
    "short": {"data__max_length": 12},
    "transformer": {"family": "transformer"},
    "transformer tanh": {"family": "transformer", "encoder__gelu": "tanh"},
}


def write(codec, folder, *, with_modules=False):
    onnx_folder.write(
        folder, codec.as_pretrained(), CardFacts(), with_modules=with_modules
    )
    return folder


def script_of(folder):
    """The card's script, for this folder."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.S)[-1]
    return code.replace("PATH", str(folder))


def encoder_of(folder):
    """The script's ``encode``, run here."""
    names = {}
    exec(script_of(folder).rpartition("print(")[0], names)
    return names["encode"]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_vectors_of_200_sentences_are_those_of_the_codec(tmp_path, changes):
    codec = make_codec(**changes)
    encode = encoder_of(write(codec, tmp_path / "onnx"))
    expected = codec.encode(SENTENCES)
    assert len(np.unique(expected.round(4), axis=0)) > 150
    assert np.abs(encode(SENTENCES) - expected).max() <= 1e-5
    for some in ([3], [0, 199], range(193, 200)):
        texts = [SENTENCES[i] for i in some]
        assert np.abs(encode(texts) - expected[list(some)]).max() <= 1e-5
    np.testing.assert_allclose(encode([""]), codec.encode([""]), atol=1e-5)


def test_an_own_vocabulary_needs_no_spelling(tmp_path):
    codec = make_other()
    encode = encoder_of(write(codec, tmp_path / "onnx"))
    assert np.abs(encode(SENTENCES) - codec.encode(SENTENCES)).max() <= 1e-5


def test_the_script_of_the_card_runs_without_this_package(tmp_path):
    codec = make_codec()
    script = script_of(write(codec, tmp_path / "onnx"))
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    blocked = "import sys\nfor name in ('mlx', 'energyflow_mlx', 'torch'):\n"
    blocked += "    sys.modules[name] = None\n"
    out = tmp_path / "vectors.npy"
    texts = SENTENCES[-12:]
    saved = f"\nnp.save({str(out)!r}, encode({texts!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + script + saved],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "(2, 12)\n"), done.stderr
    assert np.abs(np.load(out) - codec.encode(texts)).max() <= 1e-5


def test_batch_and_length_of_the_graph_are_free(tmp_path):
    folder = write(make_codec(), tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    shapes = {x.name: x.shape for x in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "input_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
        "sentence_embedding": ["batch", 12],
    }


@pytest.mark.parametrize(
    ("task", "parts", "named"),
    [
        ("flow_text", None, "a text encoder alone, got a model with lattice"),
        ("ab", {"decoder", "shared"}, "this model has no encoder"),
    ],
)
def test_what_has_no_graph_is_refused_and_nothing_is_written(
    tmp_path, task, parts, named
):
    codec = make_other(make_config(experiment=task), parts)
    with pytest.raises(InputError, match=named):
        write(codec, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    find = onnx_nodes.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_nodes.importlib.util,
        "find_spec",
        lambda name: None if name == "onnx" else find(name),
    )
    with pytest.raises(InputError, match=r"needs onnx: pip install 'energyflow-mlx\["):
        write(make_codec(), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # the library takes 20 s to import
def test_sentence_transformers_opens_the_folder_and_what_it_saved(tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    codec, texts = make_codec(), SENTENCES[-12:]
    folder = write(codec, tmp_path / "st", with_modules=True)
    (module,) = json.loads((folder / "modules.json").read_text())
    assert module["type"] == "energyflow_onnx.EnergyFlowOnnx"
    code = (
        "import sys, numpy as np\n"
        "for name in ('mlx', 'energyflow_mlx'):\n    sys.modules[name] = None\n"
        "from sentence_transformers import SentenceTransformer as Library\n"
        f"model = Library({str(folder)!r}, trust_remote_code=True, device='cpu')\n"
        f"vectors = model.encode({texts!r})\n"
        f"model.save({str(tmp_path / 'again')!r})\n"
        f"again = Library({str(tmp_path / 'again')!r}, trust_remote_code=True)\n"
        f"assert (again.encode({texts!r}) == vectors).all()\n"
        "assert again.get_embedding_dimension() == 12\n"
        f"np.save({str(tmp_path / 'v.npy')!r}, vectors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(tmp_path / "v.npy") - codec.encode(texts)).max() <= 1e-5

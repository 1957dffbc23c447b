"""A model's folder is whole, moves anywhere, and gives back the same vectors."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

import energyflow_mlx
from energyflow_mlx.config.data import EditsConfig
from energyflow_mlx.config.objectives import ParaphraseConfig
from energyflow_mlx.config.own_pairs import OwnPairsConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.inference.formats.folder import OURS
from energyflow_mlx.runs.weights import save_weights
from energyflow_mlx.runtime import hub
from tests.build.tiny import make_codec as make_other
from tests.build.tiny import make_config
from tests.conftest import CHECKOUT
from tests.inference.formats.models import SENTENCES, make_codec

WIDE = {f"{part}__{key}": 64 for part in ("encoder", "decoder") for key in ("dim",)}
CONTEXT = {"encoder__causal": False, "encoder__context": True}
# Least cosine of a sentence's vector with that of the float32 weights.
LEAST = {"float32": 1 - 1e-6, "float16": 0.99999, "bfloat16": 0.999, "int8": 0.999}
LEAST["int4"] = 0.9


@pytest.fixture(scope="module")
def codec():
    return make_codec(**WIDE, **CONTEXT, encoder__hidden=64, decoder__hidden=64)


@pytest.fixture(scope="module")
def folders(codec, tmp_path_factory):
    """The model's folder in every precision, by its name."""
    place = tmp_path_factory.mktemp("folders")
    for dtype in LEAST:
        codec.save_pretrained(place / dtype, dtype=dtype)
    return {dtype: place / dtype for dtype in LEAST}


def lay_into_cache(folder, cache, hub_id):
    """What the hub's client leaves behind when it has fetched a model."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = cache / f"models--{hub_id.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "blobs").mkdir()
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = home / "blobs" / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def test_a_fresh_process_gives_the_same_vectors_by_folder_and_by_hub_id(
    codec, folders, tmp_path
):
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    lay_into_cache(folders["float32"], tmp_path / "cache", "someone/some-model")
    names = [*map(str, folders.values()), "someone/some-model"]
    code = (
        "import sys, numpy as np\n"
        "for name in ('hydra', 'omegaconf', 'rich', 'sacrebleu', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import energyflow_mlx\n"
        f"found = [energyflow_mlx.load(name).encode({SENTENCES[-30:]!r}) "
        f"for name in {names!r}]\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, np.stack(found))\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | environment | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected, found = codec.encode(SENTENCES[-30:]), np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_array_equal(found[-1], found[0])
    for vectors, (dtype, least) in zip(found, LEAST.items(), strict=False):
        cosines = (vectors * expected).sum(axis=1)
        assert least < cosines.min() <= 1 + 1e-6, dtype
    assert (found[3] != found[4]).any()


def test_fewer_bits_are_fewer_bytes(folders):
    size = {d: (f / "model.safetensors").stat().st_size for d, f in folders.items()}
    assert max(size["float16"], size["bfloat16"]) < 0.51 * size["float32"]
    assert size["int8"] < 0.65 * size["float16"]
    assert size["int4"] < 0.75 * size["int8"]


def test_a_folder_decodes_as_the_model_that_was_saved(codec, folders):
    vectors = codec.encode(SENTENCES[:4])
    loaded = SentenceCodec.from_pretrained(folders["float32"])
    assert loaded.decode(vectors, max_length=6) == codec.decode(vectors, max_length=6)
    assert loaded.get_sentence_embedding_dimension() == 12


def test_a_folder_holds_what_its_module_lists_and_no_path_of_this_machine(tmp_path):
    file = "/secret/place/my.txt"
    config = make_config(
        data__train=[file],
        data__edits=EditsConfig(9, file),
        data__own_pairs=OwnPairsConfig(of=[file]),
        data__val=["/secret/place/val.txt"],
        trainer__sts="/secret/place/sts.tsv",
        init="/secret/place/first",
        objectives__paraphrase=ParaphraseConfig(
            lr=1e-3, file="/secret/place/pairs.tsv"
        ),
        run__dir="/secret/place/run",
        teacher__cache_dir="/secret/place/cache",
        teacher__name="/secret/place/teacher",
    )
    make_other(config).save_pretrained(tmp_path / "m")
    files = {path.name: path for path in (tmp_path / "m").iterdir()}
    assert files.keys() == {
        *("model.safetensors", "config.json", "tokenizer.json"),
        *("student_vocab.json", "README.md"),
    }
    assert files.keys() < OURS
    for path in files.values():
        assert b"secret" not in path.read_bytes(), path.name
    data = energyflow_mlx.load(tmp_path / "m").config.data
    assert data.train == data.edits.of == data.own_pairs.of == ["my.txt"]


def test_a_lattice_travels_too_but_not_in_few_bits(tmp_path):
    codec = make_other(make_config(experiment="flow"))
    with pytest.raises(InputError, match="for a model with lattice, got int8"):
        codec.save_pretrained(tmp_path / "m", dtype="int8")
    assert list(tmp_path.iterdir()) == []
    codec.save_pretrained(tmp_path / "m", dtype="float16")
    rows = np.eye(12, dtype=np.float32)[:3]
    found = energyflow_mlx.load(tmp_path / "m").transform(rows)
    np.testing.assert_allclose(found, codec.transform(rows), atol=0.02)


def test_a_precision_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(InputError, match="dtype must be one of float32, .* got int5"):
        make_other().save_pretrained(tmp_path / "m", dtype="int5")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_but_nothing_else(tmp_path):
    codec = make_other()
    codec.save_pretrained(tmp_path / "m")
    codec.save_pretrained(tmp_path / "m", dtype="float16")
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "float16"
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="earlier export alone, got notes.txt in it"):
        codec.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="must be a folder, got"):
        codec.save_pretrained(tmp_path / "m" / "notes.txt")
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def change(folder, name, **values):
    known = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(known | values))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
        (lambda f: change(f, "config.json", version=9), "version 1, got energyflow, 9"),
        (lambda f: change(f, "config.json", more=1), "config.json: unknown key more"),
        (lambda f: change(f, "config.json", dimension=5), "dimension = 5"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12"), "a safetensors file"),
        (
            lambda f: save_weights(
                f / "model.safetensors", {"a.b": mx.zeros(2)}, mx.float32
            ),
            "must hold a model's weights, got a",
        ),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, damage, named):
    make_other().save_pretrained(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(InputError, match=named):
        energyflow_mlx.load(tmp_path / "m")


def test_a_run_folder_is_not_taken_for_a_pretrained_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(make_config().to_json()))
    with pytest.raises(InputError, match="must have format energyflow, version 1"):
        SentenceCodec.from_pretrained(tmp_path)


def test_a_misspelt_path_asks_no_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("asked"))
    with pytest.raises(InputError, match="runs/mine does not exist"):
        energyflow_mlx.load("runs/mine")


def test_a_model_the_hub_does_not_have_is_one_line(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="extra hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"\[hub\] 'no-one/nothing' must be a folder"
    ) as e:
        energyflow_mlx.load("no-one/nothing")
    assert "\n" not in str(e.value)


def test_a_hub_model_without_the_client_says_what_to_install(monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'energyflow-mlx\[hub\]'"):
        energyflow_mlx.load("no-one/nothing")

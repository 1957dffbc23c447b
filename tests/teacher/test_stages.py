"""Pooling, dense layers and prompts are those of sentence-transformers."""

import json

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher import load_teacher
from energyflow_mlx.teacher.stages import Head, read_stages
from tests.teacher.tiny import GOLDEN

TOLERANCE = 1e-5
TEXT = ["the man sits"]
PLACES = ("1_Pooling", "2_Dense", "3_Normalize", "4_Dense", "5_Normalize")


def write_modules(folder, *places):
    """``modules.json`` with a Transformer and then these; the kind is in the name."""
    names = [("", "Transformer"), *((p, p.split("_")[1]) for p in places)]
    listed = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in names
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


def write_pooling(folder, **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {f"pooling_mode_{name}": value for name, value in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def golden():
    path = str(GOLDEN / "teacher_stages.safetensors")
    arrays, metadata = mx.load(path, return_metadata=True)
    return arrays, json.loads(metadata["files"])


@pytest.fixture
def dense_folder(tmp_path, golden):
    """A pooling and two dense layers, as sentence-transformers saves them."""

    def write(mode):
        arrays, files = golden
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        (tmp_path / "1_Pooling" / "config.json").write_text(
            files[f"1_Pooling/{mode}.json"]
        )
        for number in (2, 4):
            tensors = {
                name.removeprefix(f"{number}."): array
                for name, array in arrays.items()
                if name.startswith(f"{number}.")
            }
            path = tmp_path / f"{number}_Dense" / "model.safetensors"
            mx.save_safetensors(str(path), tensors)
        write_modules(tmp_path, *PLACES)
        return tmp_path

    return write


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_poolings_and_dense_layers_equal_sentence_transformers(
    dense_folder, golden, mode
):
    arrays, _ = golden
    head = Head(read_stages(dense_folder(mode)), 12)
    assert head.dimension == 6
    vectors = head(arrays["hidden"], arrays["mask"])
    assert float(mx.abs(vectors - arrays[f"vectors.{mode}"]).max()) < TOLERANCE
    # The first row fills the batch.
    alone = head(arrays["hidden"][:1], None)
    assert float(mx.abs(alone - arrays[f"vectors.{mode}"][:1]).max()) < TOLERANCE


def test_dense_layers_give_the_teachers_vectors_their_width(
    teacher_folder, dense_folder
):
    written = dense_folder("mean")
    for name in ("1_Pooling", "2_Dense", "modules.json"):
        (written / name).rename(teacher_folder / name)
    config = {"in_features": 24, "out_features": 5, "bias": False}
    (teacher_folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    weight = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    path = str(teacher_folder / "2_Dense" / "model.safetensors")
    mx.save_safetensors(path, {"linear.weight": mx.array(weight)})
    write_modules(teacher_folder, "1_Pooling")
    plain = load_teacher(teacher_folder, 16, normalize=False)
    write_modules(teacher_folder, "1_Pooling", "2_Dense")
    teacher = load_teacher(teacher_folder, 16, normalize=False)
    expected = np.tanh(plain.encode(TEXT) @ weight.T)
    assert (teacher.dimension, teacher.word_embeddings.shape[1]) == (5, 24)
    assert np.abs(teacher.encode(TEXT) - expected).max() < TOLERANCE
    assert teacher.fingerprint != plain.fingerprint


def test_pooling_is_read_from_the_folder(teacher_folder):
    mean = load_teacher(teacher_folder, 16, normalize=True)
    write_pooling(teacher_folder, cls_token=True, mean_tokens=False)
    cls = load_teacher(teacher_folder, 16, normalize=True)
    assert (mean.pooling, cls.pooling) == ("mean", "cls")
    assert np.abs(mean.encode(TEXT) - cls.encode(TEXT)).max() > 1e-3
    assert mean.fingerprint != cls.fingerprint


@pytest.mark.parametrize(
    "modes", [{"max_tokens": True}, {}, {"cls_token": True, "mean_tokens": True}]
)
def test_other_pooling_is_refused(teacher_folder, modes):
    write_pooling(teacher_folder, **modes)
    with pytest.raises(InputError, match="mean_tokens, cls_token or lasttoken alone"):
        load_teacher(teacher_folder, 16, normalize=True)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("1_Pooling", "2_LSTM"), r"modules.json: .* got LSTM"),
        (("1_Dense",), "must begin with Transformer, Pooling, got Transformer, Dense"),
        (("1_Pooling", "2_Pooling"), "only Dense and Normalize may follow"),
        (("1_Pooling", "2_Dense"), "2_Dense/config.json: no such file"),
    ],
)
def test_stages_that_are_not_built_are_refused(teacher_folder, places, message):
    write_modules(teacher_folder, *places)
    with pytest.raises(InputError, match=message):
        load_teacher(teacher_folder, 16, normalize=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.Hardswish"}, "must be one of Identity"),
        ({"in_features": 23}, "in_features must be 24, the width before it, got 23"),
        ({"module_input_name": "token_embeddings"}, "must read sentence_embedding"),
    ],
)
def test_dense_layer_that_does_not_fit_is_refused(teacher_folder, changes, message):
    write_modules(teacher_folder, "1_Pooling", "2_Dense")
    (teacher_folder / "2_Dense").mkdir()
    config = {"in_features": 24, "out_features": 5} | changes
    (teacher_folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    path = str(teacher_folder / "2_Dense" / "model.safetensors")
    mx.save_safetensors(path, {"linear.weight": mx.zeros((5, config["in_features"]))})
    with pytest.raises(InputError, match=message):
        load_teacher(teacher_folder, 16, normalize=True)


def test_pickled_dense_layer_is_never_read(teacher_folder):
    write_modules(teacher_folder, "1_Pooling", "2_Dense")
    (teacher_folder / "2_Dense").mkdir()
    config = {"in_features": 24, "out_features": 5}
    (teacher_folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    (teacher_folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"cos\n")
    with pytest.raises(InputError, match="a pickle, which is never read"):
        load_teacher(teacher_folder, 16, normalize=True)


def write_prompts(folder, default=None):
    prompts = {"query": "red ", "document": "the big "}
    settings = {"prompts": prompts, "default_prompt_name": default}
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("default", "asked", "text"),
    [
        (None, None, "man"),
        ("query", None, "red man"),
        (None, "document", "the big man"),
        ("query", "document", "the big man"),
    ],
)
def test_the_prompt_stands_before_every_sentence(teacher_folder, default, asked, text):
    plain = load_teacher(teacher_folder, 16, normalize=True)
    write_prompts(teacher_folder, default)
    teacher = load_teacher(teacher_folder, 16, normalize=True, prompt=asked)
    assert np.array_equal(teacher.encode(["man"]), plain.encode([text]))
    assert (teacher.fingerprint == plain.fingerprint) == (text == "man")
    # Ids for the student are those of the sentence alone.
    assert np.array_equal(teacher.tokenize(["man"])[0], plain.tokenize(["man"])[0])


def test_unknown_prompt_is_refused_with_the_known_ones(teacher_folder):
    with pytest.raises(InputError, match="prompts, none, got 'query'"):
        load_teacher(teacher_folder, 16, normalize=True, prompt="query")
    write_prompts(teacher_folder)
    with pytest.raises(InputError, match="prompts, query, document, got 'title'"):
        load_teacher(teacher_folder, 16, normalize=True, prompt="title")


def test_text_is_put_into_lower_case_where_the_folder_says_so(teacher_folder):
    """By a tokenizer that does not do so itself."""
    path = teacher_folder / "tokenizer.json"
    cased = json.loads(path.read_text())
    cased["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(cased))
    before = load_teacher(teacher_folder, 16, normalize=True)
    settings = {"max_seq_length": 16, "do_lower_case": True}
    (teacher_folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    after = load_teacher(teacher_folder, 16, normalize=True)
    assert np.array_equal(after.encode(["THE Man"]), before.encode(["the man"]))
    assert np.abs(after.encode(["Man"]) - before.encode(["Man"])).max() > 1e-3
    assert after.fingerprint != before.fingerprint


def test_transformer_in_a_folder_of_its_own_is_found(teacher_folder):
    plain = load_teacher(teacher_folder, 16, normalize=True)
    inside = teacher_folder / "0_Transformer"
    inside.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (teacher_folder / name).rename(inside / name)
    write_modules(teacher_folder, "1_Pooling")
    modules = json.loads((teacher_folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (teacher_folder / "modules.json").write_text(json.dumps(modules))
    moved = load_teacher(teacher_folder, 16, normalize=True)
    assert np.array_equal(moved.encode(TEXT), plain.encode(TEXT))


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"path": ""}]', '{"type": "sentence_transformers"}']
)
def test_damaged_list_of_modules_is_named(teacher_folder, text):
    (teacher_folder / "modules.json").write_text(text)
    with pytest.raises(InputError, match="modules.json: (the mod|type|not)"):
        load_teacher(teacher_folder, 16, normalize=True)

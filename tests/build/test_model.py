"""What the configuration says reaches the model that is built from it.

Each test looks at what the model does, on models of one seed that differ in one key.
"""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.build.model import build_decoder, build_encoder, start_tables
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.model import EnergyFlow, LatticeFlow
from tests.build.tiny import E, V, make_config, make_model
from tests.text.small import make_block

FAMILIES = ("tcn", "transformer")
ALONE = {"share": "none"}


def weights(model):
    return {path: np.array(value) for path, value in tree_flatten(model.parameters())}


def built(parts=None, **changes):
    """A model in evaluation, its small weights enlarged so that all they do shows."""
    model = make_model(make_config(**changes), parts)
    loud = ("embedding.weight", "conv2.weight", "head.weight")
    for path, value in tree_flatten(model.parameters()):
        if path.endswith(loud):
            model.update(tree_unflatten([(path, value * 20)]))
    model.eval()
    return model


def tokens(length=9):
    rng = np.random.default_rng(0)
    mask = np.arange(length) < np.array([length, length - 4, 2])[:, None]
    ids = rng.integers(0, V, (3, length)).astype(np.int32)
    return mx.array(ids), mx.array(mask.astype(np.float32))


def vectors():
    z = np.random.default_rng(1).normal(size=(3, E)).astype(np.float32)
    return mx.array(z / np.linalg.norm(z, axis=1, keepdims=True))


def encoded(model, **key):
    return np.array(model.encode(*tokens(), **key))


def logits(model, z=None, ids=None, **key):
    given, mask = tokens()
    ids = given if ids is None else ids
    z = vectors() if z is None else z
    return np.array(model.decoder.logits(model.decode_features(ids, mask, z, **key)))


def differ(a, b):
    return bool(np.abs(a - b).max() > 1e-6)


# Parts and draws -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected", "kind"),
    [
        ("ab", {"encoder", "decoder", "shared"}, EnergyFlow),
        ("flow", {"lattice"}, LatticeFlow),
        ("flow_text", {"encoder", "decoder", "shared", "lattice"}, LatticeFlow),
    ],
)
def test_a_task_gets_its_parts_and_the_lattice_its_own_kind_of_model(
    task, expected, kind
):
    model = make_model(make_config(experiment=task))
    assert {path.split(".")[0] for path in weights(model)} == expected
    assert type(model) is kind


def test_weights_are_drawn_from_the_seed_in_the_order_lattice_shared_ends():
    """A seed must go on giving the weights it gave."""
    config = make_config(experiment="flow_text", seed=5)
    mx.random.seed(5)
    lattice = EnergyLattice(config.lattice, E)
    shared = [make_block(16, 24, 3, 2)]
    encoder = build_encoder(config, V, 64, is_bounded=True)
    decoder = build_decoder(config, V, E)
    expected = weights(LatticeFlow(encoder, decoder, shared, lattice))
    mx.random.seed(99)
    found = weights(make_model(config))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("family", FAMILIES)
def test_own_blocks_are_drawn_between_the_table_and_the_head(family):
    """So blocks may not be built before the encoder asks for them."""
    config = make_config(family=family, **ALONE)
    mx.random.seed(1)
    encoder = build_encoder(config, V, E, is_bounded=False)
    mx.random.seed(1)
    mx.random.normal((V, 16))
    table = mx.random.normal((V, 16), scale=0.02)
    np.testing.assert_array_equal(np.array(encoder.embedding.weight), np.array(table))
    if family == "tcn":
        for block, dilation in zip(encoder.blocks, (1, 2), strict=True):
            expected = make_block(16, 24, 3, dilation)
            np.testing.assert_array_equal(
                np.array(block.conv1.weight), np.array(expected.conv1.weight)
            )


def test_a_part_has_the_weights_it_has_beside_the_parts_drawn_later():
    config = make_config()
    whole, part = weights(make_model(config)), weights(make_model(config, {"encoder"}))
    assert {path.split(".")[0] for path in part} == {"encoder"}
    alone = weights(make_model(config, {"shared", "encoder"}))
    assert alone and all(np.array_equal(whole[p], v) for p, v in alone.items())


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"unknown parts \['coder'\]"):
        make_model(make_config(), {"coder"})


@pytest.mark.parametrize(("share", "count"), [("none", 0), ("last", 1), ("all", 2)])
def test_shared_blocks_act_in_both_networks_and_are_the_last(share, count):
    model = built(share=share)
    assert len(model.shared) == count
    assert len(model.encoder.blocks) == len(model.decoder.blocks) == 2 - count
    before = encoded(model), logits(model)
    for block in model.shared:
        block.conv2.bias = block.conv2.bias + mx.random.normal((16,))
    after = encoded(model), logits(model)
    assert [differ(a, b) for a, b in zip(before, after, strict=True)] == [count > 0] * 2


# Encoder, and the blocks of both --------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["exact", "tanh"])
def test_gelu_form_reaches_the_encoder(family, form):
    config = {"family": family, **ALONE}
    model = built(encoder__gelu=form, **config)
    exact = built(encoder__gelu="exact", **config)
    assert differ(encoded(model), encoded(exact)) == (form == "tanh")


@pytest.mark.parametrize("form", ["exact", "tanh"])
def test_gelu_form_reaches_the_decoder_and_shared_blocks(form):
    model = built(decoder__gelu=form, **ALONE)
    exact = built(decoder__gelu="exact", **ALONE)
    assert differ(logits(model), logits(exact)) == (form == "tanh")
    both = {"encoder__gelu": form, "decoder__gelu": form, "share": "all"}
    assert differ(logits(built(**both)), logits(built(share="all"))) == (form == "tanh")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_on", [False, True])
def test_output_tanh_bounds_the_vectors_of_the_encoder(family, is_on):
    model = built(family=family, encoder__output_tanh=is_on, **ALONE)
    model.encoder.head.weight = model.encoder.head.weight * 100
    assert (np.abs(encoded(model)).max() <= 1.0) == is_on


@pytest.mark.parametrize("is_on", [False, True])
def test_surfaces_in_front_of_a_lattice_are_always_bounded(is_on):
    model = built(experiment="flow_text", encoder__output_tanh=is_on)
    model.encoder.head.weight = model.encoder.head.weight * 100
    surface = np.array(model.encode_surface(*tokens()))
    assert surface.shape == (3, 8, 8)
    assert 0.9 < np.abs(surface).max() <= 1.0


def test_gated_pooling_weighs_tokens():
    model, plain = built(encoder__pooling="gated"), built()
    before = encoded(model)
    plain.update(model.parameters(), strict=False)
    np.testing.assert_allclose(before, encoded(plain), atol=1e-5)
    model.encoder.pool.gate.weight = mx.random.normal((1, 16))
    assert differ(encoded(model), before)


@pytest.mark.parametrize("causal", [False, True])
def test_causal_decides_whether_own_blocks_of_the_encoder_look_ahead(causal):
    model = built(encoder__causal=causal)
    x, mask = mx.random.normal((1, 9, 16)), mx.ones((1, 9))
    other = x.at[0, 8].add(mx.random.normal((16,)))
    for block, looks_ahead in (
        (model.encoder.blocks[0], not causal),
        (model.shared[0], False),
        (model.decoder.blocks[0], False),
    ):
        change = mx.abs(block(x, mask) - block(other, mask))[0, :8].max()
        assert (float(change) > 1e-6) == looks_ahead


@pytest.mark.parametrize("share", ["none", "last"])
def test_context_starts_as_the_same_model_without_it_and_then_tells_tokens(share):
    changes = {"encoder__causal": False, "share": share}
    model, plain = built(encoder__context=True, **changes), built(**changes)
    found, expected = weights(model), weights(plain)
    assert {path for path in found if "contexts.0" in path} == found.keys() - expected
    assert all(np.array_equal(found[path], expected[path]) for path in expected)
    np.testing.assert_array_equal(encoded(model), encoded(plain))
    model.encoder.contexts[0].weight = mx.random.normal((16, 16))
    assert differ(encoded(model), encoded(plain))


@pytest.mark.parametrize("rank", [0, 4])
def test_embedding_rank_is_the_rank_of_the_token_features(rank):
    encoder = built(encoder__embedding_rank=rank).encoder
    features = encoder.embedding(mx.arange(V))
    if rank:
        features = encoder.embedding_projection(features)
    assert np.linalg.matrix_rank(np.array(features)) == (rank or 16)
    ids, mask = tokens()
    assert encoder(ids, mask, [make_block(16, 24, 3, 2)]).shape == (3, E)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["dropout", "token_dropout"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropouts_of_the_encoder_act_in_training(family, kind, rate):
    changes = {"encoder__dropout": 0.0, f"encoder__{kind}": rate}
    model = built(family=family, **changes, **ALONE)
    plain = encoded(model)
    model.train()
    one, two = (encoded(model, key=mx.random.key(s)) for s in (1, 2))
    assert differ(one, two) == differ(one, plain) == (rate > 0)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_of_the_decoder_acts_in_training(rate):
    model = built(decoder__dropout=rate, **ALONE)
    model.train()
    one, two = (logits(model, key=mx.random.key(s)) for s in (1, 2))
    assert differ(one, two) == (rate > 0)
    assert not differ(encoded(model), encoded(model))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_acts_in_shared_blocks_too(rate):
    model = built(share="all", encoder__dropout=rate, decoder__dropout=rate)
    model.train()
    one, two = (encoded(model, key=mx.random.key(s)) for s in (1, 2))
    assert differ(one, two) == (rate > 0)


@pytest.mark.parametrize("positions", [8, 9])
def test_max_positions_is_the_longest_sentence_of_a_transformer(positions):
    model = built(family="transformer", encoder__max_positions=positions)
    if positions < 9:
        with pytest.raises(ValueError, match="at most 8 columns, got 9"):
            encoded(model)
    else:
        assert encoded(model).shape == (3, E)


@pytest.mark.parametrize(("key", "value"), [("layers", 1), ("heads", 4), ("hidden", 9)])
def test_size_of_a_transformer_changes_what_it_gives(key, value):
    usual = built(family="transformer")
    other = built(family="transformer", **{f"encoder__{key}": value})
    assert differ(encoded(other), encoded(usual))


# Decoder -------------------------------------------------------------------------


def test_film_lets_the_vector_scale_the_input_of_every_block():
    plain, film = built(decoder__conditioning="additive"), built()
    assert "films" not in plain.decoder
    before = logits(film)
    assert len(film.decoder.films) == 2
    for layer in film.decoder.films:
        layer.projection.weight = mx.random.normal((32, E))
        after = logits(film)
        assert differ(after, before)
        before = after


@pytest.mark.parametrize("is_on", [False, True])
def test_coverage_carries_the_first_token_beyond_the_receptive_field(is_on):
    model = built(decoder__coverage=is_on)
    ids, mask, z = mx.ones((1, 30), dtype=mx.int32), mx.ones((1, 30)), vectors()[:1]
    other = ids.at[0, 0].add(1)
    change = model.decode_features(ids, mask, z) - model.decode_features(other, mask, z)
    assert (float(mx.abs(change)[0, -1].max()) > 1e-6) == is_on


@pytest.mark.parametrize("is_on", [False, True])
def test_output_condition_lets_the_vector_speak_past_the_blocks(is_on):
    model = built(decoder__output_condition=is_on)
    entry = model.decoder.condition.projection
    entry.weight = mx.zeros_like(entry.weight)
    assert differ(logits(model), logits(model, -vectors())) == is_on


@pytest.mark.parametrize("is_tied", [False, True])
def test_tied_makes_the_token_table_the_output_matrix(is_tied):
    model = built(decoder__tied=is_tied)
    ids = mx.zeros((3, 9), dtype=mx.int32)
    before = logits(model, ids=ids)
    table = model.decoder.embedding
    table.weight = table.weight.at[7].add(mx.random.normal((16,)))  # never read
    moved = np.abs(logits(model, ids=ids) - before).max(axis=(0, 1)) > 1e-6
    assert moved.nonzero()[0].tolist() == ([7] if is_tied else [])


@pytest.mark.parametrize(
    ("kernel_size", "dilations", "reach"), [(3, [1, 2], 6), (2, [1], 1), (2, [3], 3)]
)
def test_kernel_and_dilations_set_how_far_the_decoder_sees(
    kernel_size, dilations, reach
):
    options = {"kernel_size": kernel_size, "dilations": dilations, "coverage": False}
    changes = {f"decoder__{name}": value for name, value in options.items()}
    model = built(**changes, **ALONE)
    ids, mask, z = mx.ones((1, 12), dtype=mx.int32), mx.ones((1, 12)), vectors()[:1]
    other = ids.at[0, 0].add(1)
    change = model.decode_features(ids, mask, z) - model.decode_features(other, mask, z)
    moved = np.array(mx.abs(change).max(-1))[0] > 1e-6
    assert moved.nonzero()[0].max() == reach


# Token tables ---------------------------------------------------------------------


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("start", ["teacher", "normal"])
def test_tables_start_from_the_teachers_words_where_config_says(part, start):
    config = make_config(**{f"{part}__embedding_init": start})
    model = make_model(config)
    drawn = np.array(model[part].embedding.weight)
    words = np.random.default_rng(0).normal(size=(V, 16)).astype(np.float32)
    start_tables(model, config, words)
    table = np.array(model[part].embedding.weight)
    if start == "normal":
        np.testing.assert_array_equal(table, drawn)
    else:
        np.testing.assert_allclose(table / table[0, 0], words / words[0, 0], rtol=1e-3)


@pytest.mark.parametrize("parts", [{"encoder"}, {"decoder", "shared"}, {"shared"}])
def test_only_tables_that_are_there_are_started(parts):
    config = make_config()
    model = make_model(config, parts)
    start_tables(model, config, np.ones((V, 16), np.float32))
    for part in parts - {"shared"}:
        assert np.array(model[part].embedding.weight).std() < 1e-3

"""The model as a whole: what each kind of it does with a sentence and a vector."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.model import (
    count_parameters,
    fixed_parameters,
    flat_parameters,
    install_parameters,
)
from tests.build.tiny import E, V, make_config, make_model


def tokens():
    ids = mx.array(np.random.default_rng(0).integers(0, V, (3, 9)).astype(np.int32))
    return ids, mx.ones((3, 9))


@pytest.mark.parametrize("where", ["encoder__dropout", "lattice__ends__dropout"])
def test_the_random_key_reaches_encoder_and_lattice(where):
    """In front of a lattice too the dropouts draw from the caller's key."""
    silent = {"lattice__ends__dropout": 0.0, "share": "none"}
    model = make_model(make_config(experiment="flow_text", **(silent | {where: 0.3})))
    model.train()
    one, two, again = (
        np.array(model.encode(*tokens(), key=mx.random.key(s))) for s in (1, 2, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-6
    with pytest.raises(ValueError, match="key must be given in training"):
        model.encode(*tokens())


@pytest.mark.parametrize("task", ["ab", "flow_text"])
def test_the_compiled_encoder_gives_the_same_and_sees_new_weights(task):
    model = make_model(make_config(experiment=task))
    model.eval()
    compiled = model.compiled_encode()
    for _ in range(2):
        expected = np.array(model.encode(*tokens()))
        np.testing.assert_allclose(np.array(compiled(*tokens())), expected, atol=1e-5)
        model.encoder.head.bias = model.encoder.head.bias + mx.random.normal(
            model.encoder.head.bias.shape
        )
    assert np.abs(np.array(model.encode(*tokens())) - expected).max() > 1e-4


@pytest.mark.parametrize("task", ["ab", "flow_text"])
def test_rows_of_the_token_table_are_encoded_as_their_tokens(task):
    model = make_model(make_config(experiment=task))
    model.eval()
    ids, mask = tokens()
    found = model.encode_rows(model.encoder.embedding(ids), mask)
    expected = np.array(model.encode(ids, mask))
    np.testing.assert_allclose(np.array(found), expected, atol=1e-6)


def test_fixed_parameters_get_no_gradient_and_let_that_of_the_input_through():
    model = make_model(make_config())
    model.eval()
    ids, mask = tokens()
    before = flat_parameters(model)

    def loss(parameters, rows):
        install_parameters(model, parameters)
        with fixed_parameters(model):
            return mx.sum(mx.square(model.encode_rows(rows, mask)))

    rows = model.encoder.embedding(ids)
    weights, given = mx.grad(loss, argnums=(0, 1))(before, rows)
    assert all(mx.max(mx.abs(g)).item() == 0 for g in weights.values())
    assert mx.min(mx.max(mx.abs(given), axis=-1)).item() > 0
    install_parameters(model, before)
    with fixed_parameters(model):
        pass
    after = flat_parameters(model)
    assert after.keys() == before.keys()
    assert all(after[path] is before[path] for path in before)


def test_a_sentence_travels_from_its_surface_through_the_lattice():
    model = make_model(make_config(experiment="flow_text"))
    model.eval()
    surface = model.encode_surface(*tokens())
    assert surface.shape == (3, 8, 8)
    expected = np.array(model.lattice.from_surface(surface).vector)
    np.testing.assert_array_equal(np.array(model.encode(*tokens())), expected)


def test_a_vector_travels_through_the_lattice_or_is_refused():
    z = mx.random.normal((2, E))
    model = make_model(make_config(experiment="flow"))
    model.eval()
    expected = np.array(model.lattice(z).vector)
    np.testing.assert_array_equal(np.array(model.transform(z)), expected)
    with pytest.raises(InputError, match=r"\[transform\] this model has no lattice"):
        make_model(make_config()).transform(z)


def test_a_missing_part_is_named():
    model = make_model(make_config(experiment="flow"))
    model.require("transform", "lattice")
    with pytest.raises(InputError, match=r"\[decode\] this model has no decoder"):
        model.require("decode", "decoder")


def test_parameters_are_counted_by_part_and_together():
    counts = count_parameters(make_model(make_config()))
    assert counts["shared"] > 0
    assert counts["total"] == sum(n for part, n in counts.items() if part != "total")

"""The model as a whole: what each kind of it does with a sentence and a vector."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.model import count_parameters
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

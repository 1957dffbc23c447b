import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.token_table import TokenTable

V, D = 9, 4
IDS = mx.array([[7, 2, 7], [0, 2, 5]])


def gather(table, ids):
    """Rows that ``ids`` touch, falling order so that no id is its own place."""
    rows = np.unique(np.array(ids))[::-1].copy()
    place = np.full(V, -1, np.int32)
    place[rows] = np.arange(len(rows))
    return table[mx.array(rows)], mx.array(place), rows


def test_a_new_table_is_small_and_drawn_after_that_of_the_library():
    """The library's table takes a draw too; a seed must go on giving the same model."""
    mx.random.seed(3)
    table = TokenTable(2000, 8)
    mx.random.seed(3)
    nn.Embedding(2000, 8)
    expected = mx.random.normal((2000, 8), scale=0.02)
    np.testing.assert_array_equal(np.array(table.weight), np.array(expected))
    assert float(mx.std(table.weight)) == pytest.approx(0.02, rel=0.02)


def test_gathered_rows_give_the_features_and_the_gradient_of_the_whole_table():
    table = TokenTable(V, D)
    whole = mx.array(table.weight)

    def loss(weight, place):
        table.weight = weight
        with table.gathered(place):
            return mx.sin(50 * table(IDS)).sum()

    grad = mx.value_and_grad(loss)
    value, gradient = grad(whole, None)
    few, place, rows = gather(whole, IDS)
    few_value, few_gradient = grad(few, place)
    assert few_gradient.shape == (4, D)
    assert float(few_value) == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(
        np.array(few_gradient), np.array(gradient)[rows], atol=1e-6
    )


def test_places_end_with_their_block_also_after_an_error():
    table = TokenTable(V, D)
    before = np.array(table(IDS))
    _, place, _ = gather(table.weight, IDS)
    with table.gathered(place):
        assert not np.array_equal(np.array(table(IDS)), before)
        with table.gathered(None):
            np.testing.assert_array_equal(np.array(table(IDS)), before)
        assert not np.array_equal(np.array(table(IDS)), before)
    with pytest.raises(RuntimeError), table.gathered(place):
        raise RuntimeError
    np.testing.assert_array_equal(np.array(table(IDS)), before)


def test_places_are_no_parameter():
    table = TokenTable(V, D)
    with table.gathered(mx.arange(V)):
        assert [path for path, _ in tree_flatten(table.parameters())] == ["weight"]


def test_places_may_be_an_input_of_a_compiled_function():
    table = TokenTable(V, D)
    whole = mx.array(table.weight)
    traces = []

    def features(weight, place, ids):
        traces.append(ids.shape)
        table.weight = weight
        with table.gathered(place):
            return table(ids)

    compiled = mx.compile(features)
    for ids in (IDS, 8 - IDS):
        few, place, _ = gather(whole, ids)
        found = compiled(few, place, ids)
        np.testing.assert_array_equal(np.array(found), np.array(whole[ids]))
    assert len(traces) == 1


def test_as_linear_gives_one_output_per_gathered_row():
    table = TokenTable(V, D)
    x = mx.random.normal((3, D))
    whole = np.array(table.as_linear(x))
    assert whole.shape == (3, V)
    few, place, rows = gather(table.weight, IDS)
    table.weight = few
    with table.gathered(place):
        found = np.array(table.as_linear(x))
    np.testing.assert_allclose(found, whole[:, rows], atol=1e-6)

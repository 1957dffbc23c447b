import mlx.core as mx
import pytest

from energyflow_mlx.lattice.mapper import (
    EmbeddingMapper,
    NormedStack,
    OutputCollector,
    hidden_widths,
)


def make(cls, rate=0.0):
    return cls(6, 5, 4, width_cap=4096, rate=rate)


@pytest.mark.parametrize(
    ("dim", "cells", "cap", "widths"),
    [
        (768, 400, 4096, (800, 800)),
        (768, 100, 4096, (384, 200)),
        (768, 10_000, 4096, (4096, 4096)),
    ],
)
def test_hidden_widths_follow_the_surface_up_to_the_cap(dim, cells, cap, widths):
    assert hidden_widths(dim, cells, cap) == widths


def test_debug_mapper_has_the_reference_parameter_count():
    mapper = EmbeddingMapper(768, 20, 20, width_cap=4096, rate=0.1)
    from mlx.utils import tree_flatten

    assert sum(a.size for _, a in tree_flatten(mapper.parameters())) == 1_580_002


def test_mapper_is_the_formula_of_its_docstring():
    mapper = make(EmbeddingMapper)
    mapper.scale, mapper.offset = mx.array([2.0]), mx.array([0.5])
    v = mx.random.normal((3, 6))
    pattern = mx.tanh(mapper.stack(v)).reshape(3, 4, 5)
    assert mx.allclose(mapper(v), 2 * pattern + 0.5 + mapper.table)


def test_collector_applies_its_cell_weights():
    """F13: the reference's 768-d call skips the cell weights."""
    collector = make(OutputCollector)
    surface = mx.random.normal((2, 4, 5))
    before = collector(surface)
    collector.cell_weight = mx.zeros((4, 5))
    assert not mx.allclose(collector(surface), before)
    assert mx.allclose(collector(surface), collector(mx.zeros((2, 4, 5))))


@pytest.mark.parametrize("cls", [EmbeddingMapper, OutputCollector])
def test_dropout_acts_in_training_from_its_key_and_never_in_evaluation(cls):
    """F12: the reference's mapper keeps its dropout on for ever."""
    layer = make(cls, rate=0.5)
    x = mx.random.normal((2, 6) if cls is EmbeddingMapper else (2, 4, 5))
    with pytest.raises(ValueError, match="key must be given in training"):
        layer(x)
    first, same, other = (layer(x, key=mx.random.key(seed)) for seed in (0, 0, 1))
    assert mx.array_equal(first, same)
    assert not mx.allclose(first, other)
    layer.eval()
    assert mx.array_equal(layer(x, key=mx.random.key(0)), layer(x))


def test_rate_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="dropout must be in"):
        NormedStack((2, 3, 2), (1.0,))

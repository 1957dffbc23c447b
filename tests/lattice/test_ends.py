import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.lattice.ends import (
    EmbeddingMapper,
    NormedStack,
    OutputCollector,
    hidden_widths,
    isometry,
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


def test_debug_mapper_has_the_reference_parameter_count_beside_its_direct_map():
    mapper = EmbeddingMapper(768, 20, 20, width_cap=4096, rate=0.1)
    count = sum(a.size for _, a in tree_flatten(mapper.parameters()))
    assert count - mapper.direct.size == 1_580_002
    assert mapper.direct.shape == (400, 768)


def test_mapper_is_the_formula_of_its_docstring():
    mapper = make(EmbeddingMapper)
    mapper.scale, mapper.offset = mx.array([2.0]), mx.array([0.5])
    v = mx.random.normal((3, 6))
    pattern = mx.tanh(mapper.stack(v) + v @ mapper.direct.T).reshape(3, 4, 5)
    assert mx.allclose(mapper(v), 2 * pattern + 0.5 + mapper.table)


@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (4, 7), (5, 5)])
def test_isometry_keeps_lengths_in_the_smaller_space(rows, columns):
    matrix = isometry(rows, columns)
    assert matrix.shape == (rows, columns)
    product = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    assert mx.allclose(product, mx.eye(min(rows, columns)), atol=1e-5)


def test_fresh_ends_give_surfaces_and_vectors_of_the_right_size():
    """Unit vectors in: cells of deviation 0.5 before the tanh, then unit length out."""
    mapper = EmbeddingMapper(64, 20, 20, width_cap=4096, rate=0.0)
    collector = OutputCollector(64, 20, 20, width_cap=4096, rate=0.0)
    v = mx.random.normal((200, 64))
    v = v / mx.linalg.norm(v, axis=1, keepdims=True)
    assert 0.35 < (v @ mapper.direct.T).std().item() < 0.65
    lengths = mx.linalg.norm(collector(mapper(v)), axis=1)
    assert 0.3 < lengths.mean().item() < 3.0


def test_collector_applies_its_cell_weights():
    """The reference's 768-d call skips the cell weights."""
    collector = make(OutputCollector)
    surface = mx.random.normal((2, 4, 5))
    before = collector(surface)
    collector.cell_weight = mx.zeros((4, 5))
    assert not mx.allclose(collector(surface), before)
    assert mx.allclose(collector(surface), collector(mx.zeros((2, 4, 5))))


@pytest.mark.parametrize("cls", [EmbeddingMapper, OutputCollector])
def test_dropout_acts_in_training_from_its_key_and_never_in_evaluation(cls):
    """The reference's mapper keeps its dropout on for ever."""
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

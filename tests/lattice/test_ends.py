import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.lattice.ends import (
    EmbeddingMapper,
    NormedStack,
    OutputCollector,
    build_collector,
    build_mapper,
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


def ends_of(small_config, faces="merged", **settings):
    """Mapper and collector for vectors of 6 numbers and surfaces of 4 x 5 cells."""
    mx.random.seed(0)
    config = small_config(ends=settings, readout={"faces": faces})
    mapper = build_mapper(config, 6)
    return mapper, build_collector(config, 6, mapper)


@pytest.mark.parametrize("kind", ["linear", "fixed"])
@pytest.mark.parametrize("faces", ["merged", "separate"])
def test_linear_and_fixed_ends_are_one_linear_map_each(small_config, kind, faces):
    mapper, collector = ends_of(small_config, faces, kind=kind)
    v, w = mx.random.normal((2, 3, 6))
    assert mx.allclose(mapper(v) + 2 * mapper(w), mapper(v + 2 * w), atol=1e-5)
    height = 8 if faces == "separate" else 4
    x, y = mx.random.normal((2, 3, height, 5))
    assert collector(x).shape == (3, 6)
    both = collector(x) + 2 * collector(y)
    assert mx.allclose(both, collector(x + 2 * y), atol=1e-5)


@pytest.mark.parametrize(("kind", "count"), [("mlp", 26), ("linear", 2), ("fixed", 0)])
def test_fixed_ends_have_nothing_to_train(small_config, kind, count):
    ends = ends_of(small_config, kind=kind)
    names = [n for end in ends for n, _ in tree_flatten(end.trainable_parameters())]
    assert len(names) == count
    kept = [n for end in ends for n, _ in tree_flatten(end.parameters())]
    assert len(kept) == max(count, 2)  # what does not train is in checkpoints all same


def test_fixed_ends_give_back_what_stays_where_it_was_laid_out(small_config):
    mapper, collector = ends_of(small_config, kind="fixed")
    v = mx.random.normal((3, 6))
    assert mx.allclose(collector(mapper(v)), v, atol=1e-5)
    square = mapper.direct.T @ mapper.direct
    assert mx.allclose(square, square[0, 0] * mx.eye(6), atol=1e-5)


def test_a_fixed_far_face_is_read_by_an_orthogonal_map_of_its_own(small_config):
    mapper, collector = ends_of(small_config, "separate", kind="fixed")
    v = mx.random.normal((3, 6))
    laid, none = mapper(v), mx.zeros((3, 4, 5))
    assert mx.allclose(collector(mx.concatenate([laid, none], axis=1)), v, atol=1e-5)
    far = collector(mx.concatenate([none, laid], axis=1))
    assert not mx.allclose(far, v, atol=0.1)
    block = collector.direct[:, 20:]
    square = block @ block.T
    assert mx.allclose(square, square[0, 0] * mx.eye(6), atol=1e-5)


def test_fixed_ends_are_drawn_from_the_seed(small_config):
    one, two = ends_of(small_config, kind="fixed"), ends_of(small_config, kind="fixed")
    assert mx.array_equal(one[0].direct, two[0].direct)
    mx.random.seed(1)
    other = build_mapper(small_config(ends={"kind": "fixed"}), 6)
    assert not mx.allclose(one[0].direct, other.direct)


DIVIDED = {"kind": "divided", "near": 0.8, "far": 0.6}  # of 5 columns, 2 read on both


def read_divided(collector, near, far):
    """What divided ends make of the two faces, ``[B, 4, 5]`` each."""
    return collector(mx.concatenate([near, far], axis=1))


def test_divided_ends_give_back_what_arrives_on_both_faces(small_config):
    mapper, collector = ends_of(small_config, "separate", **DIVIDED, shift=0)
    laid = mapper(v := mx.random.normal((3, 6)))
    assert mx.allclose(read_divided(collector, laid, laid), v, atol=1e-5)
    column = mx.arange(5)
    near, far = laid * (column < 4), laid * (column >= 2)
    assert mx.allclose(read_divided(collector, near, far), v, atol=1e-5)
    for lost in ((near * (column != 2), far), (near, far * (column != 2))):
        assert not mx.allclose(read_divided(collector, *lost), v, atol=0.01)


def test_divided_ends_read_the_far_face_further_to_the_left(small_config):
    straight = ends_of(small_config, "separate", **DIVIDED, shift=0)
    mapper, collector = ends_of(small_config, "separate", **DIVIDED, shift=2)
    laid = mapper(mx.random.normal((3, 6)))
    moved = mx.roll(laid, -2, axis=2)
    found = read_divided(collector, laid, moved)
    assert mx.allclose(found, read_divided(straight[1], laid, laid), atol=1e-5)
    assert not mx.allclose(read_divided(collector, laid, laid), found, atol=0.01)


def test_divided_ends_never_train(small_config):
    for end in ends_of(small_config, "separate", **DIVIDED):
        assert not tree_flatten(end.trainable_parameters())

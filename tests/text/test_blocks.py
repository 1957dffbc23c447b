import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.text.small import make_block, make_blocks


def weights(blocks):
    return [np.array(v) for b in blocks for _, v in tree_flatten(b.parameters())]


def test_own_blocks_come_first_and_the_shared_ones_are_the_last_and_causal():
    blocks = make_blocks(6, 8, dilations=(1, 2, 4), shared=1, causal=False)
    assert [b.dilation for b in blocks] == [1, 2]
    assert [b.dilation for b in blocks.build_shared()] == [4]
    assert not any(b.causal for b in blocks)
    assert all(b.causal for b in blocks.build_shared())
    assert blocks.count == 3


@pytest.mark.parametrize(("shared", "own"), [(0, 2), (2, 0)])
def test_all_or_none_may_be_shared(shared, own):
    blocks = make_blocks(6, 8, shared=shared)
    assert len(list(blocks)) == own
    assert len(blocks.build_shared()) == shared


def test_a_block_is_drawn_when_it_is_asked_for_and_not_before():
    mx.random.seed(1)
    blocks = iter(make_blocks(6, 8))
    before = mx.random.normal((3,))
    first = next(blocks)
    between = mx.random.normal((3,))
    second = next(blocks)
    mx.random.seed(1)
    np.testing.assert_array_equal(np.array(before), np.array(mx.random.normal((3,))))
    for a, b in zip(weights([first]), weights([make_block(6, 8)]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.array(between), np.array(mx.random.normal((3,))))
    for a, b in zip(weights([second]), weights([make_block(6, 8)]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dilations": ()}, "dilations must name at least one block"),
        ({"shared": 3}, "shared must be between 0 and 2, got 3"),
        ({"shared": -1}, "shared must be between 0 and 2, got -1"),
    ],
)
def test_wrong_lists_are_named(options, message):
    with pytest.raises(ValueError, match=r"\[BlockList\] " + message):
        make_blocks(6, 8, **options)

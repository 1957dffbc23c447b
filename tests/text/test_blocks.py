import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.text.blocks import run_blocks
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


@pytest.mark.parametrize(("shared", "count"), [(0, 2), (1, 2), (2, 1), (3, 0)], ids=str)
def test_contexts_follow_own_blocks_but_never_the_last_of_all(shared, count):
    options = {"dilations": (1, 2, 4), "shared": shared, "causal": False}
    assert len(make_blocks(6, 8, context=True, **options).build_contexts()) == count
    assert make_blocks(6, 8, context=False, **options).build_contexts() == []


def test_a_context_comes_after_its_block_and_before_the_next():
    own = make_blocks(6, 8, dilations=(1, 2, 4), causal=False, context=True)
    blocks, contexts = list(own), own.build_contexts()
    for context in contexts:
        context.weight = mx.random.normal((6, 6))
    x, mask = mx.random.normal((2, 9, 6)), mx.ones((2, 9))
    expected = x
    for block, context in zip(blocks, contexts, strict=False):
        expected = context(block(expected, mask), mask)
    expected = blocks[2](expected, mask)
    found = run_blocks(blocks, x, mask, contexts=contexts)
    np.testing.assert_array_equal(np.array(found), np.array(expected))


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
        ({"context": True}, "context must be off in causal blocks"),
    ],
)
def test_wrong_lists_are_named(options, message):
    with pytest.raises(ValueError, match=r"\[BlockList\] " + message):
        make_blocks(6, 8, **options)

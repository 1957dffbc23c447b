"""Ids of a source tokenizer to the student's ids, as nodes of an ONNX graph.

What ``text.tokenizer`` does after its source: spell each piece with the student's
tokens, cut, put start and end around.
"""

import numpy as np

from energyflow_mlx.inference.formats.folder import Pretrained
from energyflow_mlx.inference.formats.onnx_nodes import Graph, Value

IDS, MASK = "input_ids", "attention_mask"


def student_tokens(g: Graph, source: Pretrained) -> tuple[Value, Value]:
    """Student ids ``[B, T]`` int64, start and end around, and their mask in float32.

    Every piece's spelling lies in one array, at ``begins``. All spellings of a row are
    laid into ``[B, L * M]``, M the longest, with gaps; a running sum of what is no gap
    says where each token goes. Gaps, and what is cut off, go to one column more, which
    is dropped.
    """
    spelling, begins = source.tokenizer.spelling
    special = source.tokenizer.special
    one, row_axis = g.constant([1]), g.constant([-1])
    spelt, is_token = _spelt(g, spelling, begins)  # [B, L * M]
    limit = min(source.config.data.max_length, source.config.data.buckets[-1]) - 2
    total = g.node("CumSum", g.cast(is_token, np.int64), g.constant(1))
    place = g.node("Sub", total, g.constant(1))  # from 0; after a gap the same again
    is_kept = g.node("And", is_token, g.node("Less", place, g.constant(limit)))
    count = g.node("ReduceSum", g.cast(is_kept, np.int64), row_axis, keepdims=1)
    end = g.node("Add", count, one)  # [B, 1]: column of the end token
    width = g.node("Add", g.node("ReduceMax", end, keepdims=0), g.constant(1))
    column = g.node("Where", is_kept, g.node("Add", place, g.constant(1)), width)
    token = g.node("Where", is_kept, spelt, g.constant(0))
    ones = g.node("Mul", end, g.constant(0))  # [B, 1] zeros, to be added to
    starts = g.node("Add", ones, g.constant(special.start))
    ends = g.node("Add", ones, g.constant(special.end))
    columns = g.node("Concat", ones, column, end, axis=1)
    tokens = g.node("Concat", starts, token, ends, axis=1)
    batch = g.node("Shape", g.node("Squeeze", end, g.constant([1])))
    wide = g.node("Unsqueeze", g.node("Add", width, g.constant(1)), g.constant([0]))
    empty = g.node("Expand", g.constant([[0]]), g.node("Concat", batch, wide, axis=0))
    # Of one column's tokens all but one are 0: to add them has no order.
    filled = g.node("ScatterElements", empty, columns, tokens, axis=1, reduction="add")
    last = g.node("Unsqueeze", width, g.constant([0]))
    ids = g.node("Slice", filled, g.constant([0]), last, g.constant([1]))
    mask = g.node("LessOrEqual", g.range(width), end)  # [B, T]
    return ids, g.cast(mask, np.float32)


def _spelt(g: Graph, spelling: np.ndarray, begins: np.ndarray) -> tuple[Value, Value]:
    """Student ids ``[B, L * M]`` of the source ids, and where there is one."""
    longest = int(np.diff(begins).max())
    last = g.constant([2])
    table = g.constant(begins, np.int32)
    # One masked column more: a batch of empty texts has none of its own.
    pads = g.constant([0, 0, 0, 1])
    ids, mask = (g.node("Pad", name, pads) for name in (IDS, MASK))
    first = g.cast(g.node("Gather", table, ids), np.int64)
    after = g.node("Gather", table, g.node("Add", ids, g.constant(1)))
    count = g.node("Mul", g.node("Sub", g.cast(after, np.int64), first), mask)
    steps = g.constant(np.arange(longest))
    is_token = g.node("Less", steps, g.node("Unsqueeze", count, last))  # [B, L, M]
    place = g.node("Add", g.node("Unsqueeze", first, last), steps)
    place = g.node("Min", place, g.constant(len(spelling) - 1))
    spelt = g.cast(g.node("Gather", g.constant(spelling, np.int32), place), np.int64)
    flat = g.constant([0, -1])
    return g.node("Reshape", spelt, flat), g.node("Reshape", is_token, flat)

"""A text encoder as an ONNX graph, from the ids of its source tokenizer to vectors.

The source tokenizer is an ordinary ``tokenizer.json``; what this package does after it
is part of the graph: to spell each piece with the student's tokens, to cut, to put
start and end around. So a runtime with that tokenizer and this graph needs no more.

    input_ids, attention_mask [B, L] int64  ->  sentence_embedding [B, E] float32
"""

from typing import Any

import mlx.core as mx
import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.formats.folder import Pretrained
from energyflow_mlx.inference.formats.onnx_nodes import Graph, Value
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.ops.tcn_block import LAYER_NORM_EPS
from energyflow_mlx.text.encoder import TCNEncoder

IDS, MASK, VECTOR = "input_ids", "attention_mask", "sentence_embedding"


def encoder_graph(source: Pretrained) -> Any:
    """The encoder's graph, an ``onnx.ModelProto``; its vectors have length 1.

    Args:
        source: The model.

    Raises:
        InputError: It has no encoder, one of another family than ``tcn``, or a part
            between its encoder and its vectors.
    """
    model = source.model
    model.require("export format=onnx", "encoder")
    others = {name for name in model if name not in ("encoder", "decoder", "shared")}
    if others:
        raise InputError(
            f"[export] format=onnx must have a text encoder alone, got a model with "
            f"{min(others)}."
        )
    encoder = model.encoder
    if not isinstance(encoder, TCNEncoder):
        raise InputError(
            f"[export] format=onnx must have encoder=tcn or tcn_small, got "
            f"encoder={source.config.encoder.family}."
        )
    graph = Graph()
    ids, mask = _student_tokens(graph, source)
    h = _features(graph, encoder, ids, mask, [*encoder.blocks, *model.shared])
    pooled = _pooled(graph, encoder, h, mask)
    y = graph.linear(pooled, _array(encoder.head.weight), _array(encoder.head.bias))
    if source.config.encoder.output_tanh:
        y = graph.node("Tanh", y)
    _unit(graph, y)
    return graph.model(
        {IDS: ("batch", "length"), MASK: ("batch", "length")},
        {VECTOR: ("batch", source.dimension)},
    )


def _array(values: mx.array) -> np.ndarray:
    return np.array(values.astype(mx.float32))


# Source ids to student ids -----------------------------------------------------------


def _student_tokens(g: Graph, source: Pretrained) -> tuple[Value, Value]:
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


# Student ids to vectors --------------------------------------------------------------


def _features(
    g: Graph, encoder: TCNEncoder, ids: Value, mask: Value, blocks: list[TCNBlock]
) -> Value:
    """Features ``[B, T, D]`` behind the last block."""
    x = g.node("Gather", g.constant(_array(encoder.embedding.weight), np.float32), ids)
    if "embedding_projection" in encoder:
        x = g.linear(x, _array(encoder.embedding_projection.weight), None)
    known = g.node("Unsqueeze", mask, g.constant([2]))  # [B, T, 1]
    x = g.node("Mul", x, known)
    for block in blocks:
        x = _block(g, block, x, known)
    return x


def _block(g: Graph, block: TCNBlock, x: Value, known: Value) -> Value:
    """See ``ops.tcn_block``: normalize, convolve, GELU, one more product, add."""
    w = block.weights()
    taps = w.conv1_weight.shape[1]
    past = (taps - 1) * block.dilation
    u = g.node(
        "LayerNormalization",
        x,
        g.constant(_array(w.norm_weight), np.float32),
        g.constant(_array(w.norm_bias), np.float32),
        epsilon=LAYER_NORM_EPS,
    )
    pads = [past, 0]
    if not block.causal:
        u, pads = g.node("Mul", u, known), [past // 2, past // 2]
    h = g.node(
        "Conv",
        g.node("Transpose", u, perm=[0, 2, 1]),  # [B, D, T]
        g.constant(_array(w.conv1_weight).transpose(0, 2, 1), np.float32),
        g.constant(_array(w.conv1_bias), np.float32),
        dilations=[block.dilation],
        pads=pads,
    )
    h = g.node("Transpose", _gelu(g, h, block.gelu_form), perm=[0, 2, 1])  # [B, T, H]
    branch = g.linear(h, _array(w.conv2_weight), _array(w.conv2_bias))
    return g.node("Mul", g.node("Add", x, branch), known)


def _gelu(g: Graph, x: Value, form: str) -> Value:
    """GELU, x Phi(x): by the error function, or by the tanh that comes near it."""

    def number(value: float) -> Value:
        return g.constant(value, np.float32)

    if form == "exact":
        inner = g.node("Erf", g.node("Mul", x, number(np.sqrt(0.5))))
    else:
        cube = g.node("Mul", g.node("Mul", x, x), x)
        bent = g.node("Add", x, g.node("Mul", cube, number(0.044715)))
        inner = g.node("Tanh", g.node("Mul", bent, number(np.sqrt(2 / np.pi))))
    share = g.node("Mul", g.node("Add", inner, number(1.0)), number(0.5))
    return g.node("Mul", x, share)


def _pooled(g: Graph, encoder: TCNEncoder, h: Value, mask: Value) -> Value:
    """Masked mean ``[B, D]``, gated where the encoder is."""
    weights, least = mask, 1.0
    if "pool" in encoder:
        gate = encoder.pool.gate
        logits = g.linear(h, _array(gate.weight), _array(gate.bias))  # [B, T, 1]
        share = g.node("Sigmoid", g.node("Squeeze", logits, g.constant([2])))
        weights, least = g.node("Mul", mask, share), 1e-6
    total = g.node("ReduceSum", weights, g.constant([1]), keepdims=1)
    row = g.node("Unsqueeze", weights, g.constant([1]))  # [B, 1, T]
    summed = g.node("Squeeze", g.node("MatMul", row, h), g.constant([1]))
    return g.node("Div", summed, g.node("Max", total, g.constant(least, np.float32)))


def _unit(g: Graph, y: Value) -> Value:
    """Rows at length 1; a row of zeros stays."""
    norm = g.node("ReduceL2", y, axes=[1], keepdims=1)
    is_zero = g.node("Equal", norm, g.constant(0.0, np.float32))
    divisor = g.node("Where", is_zero, g.constant(1.0, np.float32), norm)
    return g.node("Div", y, divisor, name=VECTOR)

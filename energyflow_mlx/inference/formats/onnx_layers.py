"""The encoders' layers as nodes of an ONNX graph; the formulas stand with them."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from energyflow_mlx.config import TransformerEncoderConfig
from energyflow_mlx.inference.formats.onnx_nodes import Graph, Value
from energyflow_mlx.nn.context import SentenceContext
from energyflow_mlx.nn.tcn import TCNBlock
from energyflow_mlx.nn.transformer import SelfAttention, TransformerLayer
from energyflow_mlx.ops.tcn_block import LAYER_NORM_EPS
from energyflow_mlx.text.encoder import TCNEncoder, TransformerEncoder

_MASKED_SCORE = -1e4


def _array(values: mx.array) -> np.ndarray:
    return np.array(values.astype(mx.float32))


def _linear(g: Graph, x: Value, layer: nn.Linear) -> Value:
    bias = _array(layer.bias) if "bias" in layer else None
    return g.linear(x, _array(layer.weight), bias)


def _norm(
    g: Graph, x: Value, weight: mx.array, bias: mx.array, epsilon: float
) -> Value:
    return g.node(
        "LayerNormalization",
        x,
        g.constant(_array(weight), np.float32),
        g.constant(_array(bias), np.float32),
        epsilon=epsilon,
    )


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


def _mean(g: Graph, x: Value, weights: Value, least: float) -> Value:
    """Mean ``[B, D]`` of tokens ``[B, T, D]`` by weights ``[B, T]``."""
    total = g.node("ReduceSum", weights, g.constant([1]), keepdims=1)
    row = g.node("Unsqueeze", weights, g.constant([1]))  # [B, 1, T]
    summed = g.node("Squeeze", g.node("MatMul", row, x), g.constant([1]))
    return g.node("Div", summed, g.node("Max", total, g.constant(least, np.float32)))


# Temporal convolutions ---------------------------------------------------------------


def tcn_vector(
    g: Graph, encoder: TCNEncoder, shared: list[TCNBlock], ids: Value, mask: Value
) -> Value:
    """Vectors ``[B, E]`` of a ``TCNEncoder`` before any tanh.

    Args:
        g: The graph.
        encoder: The encoder.
        shared: The shared blocks.
        ids: Student ids, ``[B, T]`` int64.
        mask: 1 for real tokens, ``[B, T]`` float32.
    """
    x = g.node("Gather", g.constant(_array(encoder.embedding.weight), np.float32), ids)
    if "embedding_projection" in encoder:
        x = _linear(g, x, encoder.embedding_projection)
    known = g.node("Unsqueeze", mask, g.constant([2]))  # [B, T, 1]
    x = g.node("Mul", x, known)
    for number, block in enumerate([*encoder.blocks, *shared]):
        x = _block(g, block, x, known)
        if number < len(encoder.contexts):
            x = _context(g, encoder.contexts[number], x, mask, known)
    if "pool" not in encoder:
        return _linear(g, _mean(g, x, mask, 1.0), encoder.head)
    logits = g.node("Squeeze", _linear(g, x, encoder.pool.gate), g.constant([2]))
    gates = g.node("Mul", mask, g.node("Sigmoid", logits))
    return _linear(g, _mean(g, x, gates, 1e-6), encoder.head)


def _block(g: Graph, block: TCNBlock, x: Value, known: Value) -> Value:
    """See ``ops.tcn_block``: normalize, convolve, GELU, one more product, add."""
    w = block.weights()
    taps = w.conv1_weight.shape[1]
    past = (taps - 1) * block.dilation
    u = _norm(g, x, w.norm_weight, w.norm_bias, LAYER_NORM_EPS)
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


def _context(
    g: Graph, context: SentenceContext, x: Value, mask: Value, known: Value
) -> Value:
    """See ``nn.context``: mean, normalize, one product, add to each real token."""
    norm = context.norm
    said = _norm(g, _mean(g, x, mask, 1.0), norm.weight, norm.bias, norm.eps)
    told = g.linear(said, _array(context.weight), _array(context.bias))
    told = g.node("Unsqueeze", told, g.constant([1]))  # [B, 1, D]
    return g.node("Mul", g.node("Add", x, told), known)


# Attention ---------------------------------------------------------------------------


def transformer_vector(
    g: Graph,
    encoder: TransformerEncoder,
    settings: TransformerEncoderConfig,
    ids: Value,
    mask: Value,
) -> Value:
    """Vectors ``[B, E]`` of a ``TransformerEncoder`` before any tanh.

    Args:
        g: The graph.
        encoder: The encoder.
        settings: What it was built with.
        ids: Student ids, ``[B, T]`` int64.
        mask: 1 for real tokens, ``[B, T]`` float32.
    """
    table = g.constant(_array(encoder.embedding.weight), np.float32)
    length = g.node("Slice", g.node("Shape", ids), g.constant([1]), g.constant([2]))
    places = g.constant(_array(encoder.positions), np.float32)
    places = g.node("Slice", places, g.constant([0]), length, g.constant([0]))
    x = g.node("Add", g.node("Gather", table, ids), places)  # [B, T, D]
    hidden = g.node("Sub", g.constant(1.0, np.float32), mask)
    scores = g.node("Mul", hidden, g.constant(_MASKED_SCORE, np.float32))
    bias = g.node("Unsqueeze", scores, g.constant([1, 2]))  # [B, 1, 1, T]
    for layer in encoder.layers:
        x = _layer(g, layer, settings, x, bias)
    h = _gelu(g, _linear(g, _mean(g, x, mask, 1.0), encoder.expand), settings.gelu)
    norm = encoder.norm
    return _linear(g, _norm(g, h, norm.weight, norm.bias, norm.eps), encoder.head)


def _layer(
    g: Graph,
    layer: TransformerLayer,
    settings: TransformerEncoderConfig,
    x: Value,
    bias: Value,
) -> Value:
    """See ``nn.transformer``: attend, add, normalize; expand, contract, the same."""
    attended = _attend(g, layer.attention, settings.heads, x, bias)
    norm = layer.attention_norm
    x = _norm(g, g.node("Add", x, attended), norm.weight, norm.bias, norm.eps)
    h = _gelu(g, _linear(g, x, layer.expand), settings.gelu)
    norm = layer.output_norm
    y = g.node("Add", x, _linear(g, h, layer.contract))
    return _norm(g, y, norm.weight, norm.bias, norm.eps)


def _attend(
    g: Graph, attention: SelfAttention, heads: int, x: Value, bias: Value
) -> Value:
    dim = attention.query.weight.shape[0]
    split = g.constant([0, 0, heads, dim // heads])

    def by_head(layer: nn.Linear, axes: list[int]) -> Value:
        return g.node(
            "Transpose", g.node("Reshape", _linear(g, x, layer), split), perm=axes
        )

    q = by_head(attention.query, [0, 2, 1, 3])  # [B, heads, T, D / heads]
    k = by_head(attention.key, [0, 2, 3, 1])
    v = by_head(attention.value, [0, 2, 1, 3])
    scale = g.constant((dim // heads) ** -0.5, np.float32)
    scores = g.node("Add", g.node("MatMul", g.node("Mul", q, scale), k), bias)
    y = g.node("MatMul", g.node("Softmax", scores, axis=-1), v)
    joined = g.node("Transpose", y, perm=[0, 2, 1, 3])
    flat = g.node("Reshape", joined, g.constant([0, 0, dim]))
    return _linear(g, flat, attention.output)

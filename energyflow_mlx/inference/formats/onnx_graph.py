"""A text encoder as an ONNX graph, from the ids of its source tokenizer to vectors.

The source tokenizer is an ordinary ``tokenizer.json``; what this package does after it
is part of the graph. So a runtime with that tokenizer and this graph needs no more.

    input_ids, attention_mask [B, L] int64  ->  sentence_embedding [B, E] float32
"""

from typing import Any

import numpy as np

from energyflow_mlx.config import TransformerEncoderConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.formats.folder import Pretrained
from energyflow_mlx.inference.formats.onnx_layers import tcn_vector, transformer_vector
from energyflow_mlx.inference.formats.onnx_nodes import Graph, Value
from energyflow_mlx.inference.formats.onnx_tokens import IDS, MASK, student_tokens

VECTOR = "sentence_embedding"


def encoder_graph(source: Pretrained) -> Any:
    """The encoder's graph, an ``onnx.ModelProto``; its vectors have length 1.

    Args:
        source: The model.

    Raises:
        InputError: It has no encoder, or a part between its encoder and its vectors.
    """
    model, settings = source.model, source.config.encoder
    model.require("export format=onnx", "encoder")
    others = {name for name in model if name not in ("encoder", "decoder", "shared")}
    if others:
        raise InputError(
            f"[export] format=onnx must have a text encoder alone, got a model with "
            f"{min(others)}."
        )
    graph = Graph()
    ids, mask = student_tokens(graph, source)
    if isinstance(settings, TransformerEncoderConfig):
        y = transformer_vector(graph, model.encoder, settings, ids, mask)
    else:
        y = tcn_vector(graph, model.encoder, model.shared, ids, mask)
    _unit(graph, graph.node("Tanh", y) if settings.output_tanh else y)
    return graph.model(
        {IDS: ("batch", "length"), MASK: ("batch", "length")},
        {VECTOR: ("batch", source.dimension)},
    )


def _unit(g: Graph, y: Value) -> Value:
    """Rows at length 1; a row of zeros stays."""
    norm = g.node("ReduceL2", y, axes=[1], keepdims=1)
    is_zero = g.node("Equal", norm, g.constant(0.0, np.float32))
    divisor = g.node("Where", is_zero, g.constant(1.0, np.float32), norm)
    return g.node("Div", y, divisor, name=VECTOR)

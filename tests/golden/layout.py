"""Where a PyTorch weight goes in this package's modules, and arrays both sides make.

The golden files are written in PyTorch's layout, so that this file is the only place
that knows both. It imports neither library.
"""

import zlib

import numpy as np

Arrays = dict[str, np.ndarray]


def conv_weight(weight: np.ndarray) -> np.ndarray:
    """Convolution taps, PyTorch ``[O, I, K]`` to ``[O, K, I]``; tap order is kept.

    The same map brings a gradient over.
    """
    return np.ascontiguousarray(weight.transpose(0, 2, 1))


def tcn_block(arrays: Arrays) -> Arrays:
    """Map a block of ``LayerNorm norm, Conv1d conv1, Conv1d conv2`` (one tap)."""
    return {
        "norm.weight": arrays["norm.weight"],
        "norm.bias": arrays["norm.bias"],
        "conv1.weight": conv_weight(arrays["conv1.weight"]),
        "conv1.bias": arrays["conv1.bias"],
        "conv2.weight": arrays["conv2.weight"][:, :, 0],
        "conv2.bias": arrays["conv2.bias"],
    }


_LAYER = {
    "self_attn.out_proj": "attention.output",
    "linear1": "expand",
    "linear2": "contract",
    "norm1": "attention_norm",
    "norm2": "output_norm",
}
_ENCODER = {"head.0": "expand", "head.2": "norm", "head.4": "head"}


def transformer_encoder(arrays: Arrays) -> Arrays:
    """Map an encoder with ``embedding``, ``positions``, ``layers`` and ``head``.

    ``layers.N`` is a ``TransformerEncoderLayer``, whose query, key and value weights
    are one matrix; ``head`` is ``Linear, GELU, LayerNorm, Dropout, Linear``.
    """
    mapped = {}
    for path, value in arrays.items():
        if ".self_attn.in_proj_" in path:
            layer, kind = path.split(".self_attn.in_proj_")
            parts = np.split(value, 3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                mapped[f"{layer}.attention.{name}.{kind}"] = part
        else:
            mapped[_renamed(path)] = value
    return mapped


def _renamed(path: str) -> str:
    if path.startswith("layers."):
        _, number, rest = path.split(".", 2)
        owner, kind = rest.rsplit(".", 1)
        return f"layers.{number}.{_LAYER[owner]}.{kind}"
    if path.startswith("head."):
        owner, kind = path.rsplit(".", 1)
        return f"{_ENCODER[owner]}.{kind}"
    return path


def seeded_uniform(name: str, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """Uniform numbers in ``[-bound, bound)`` that depend on ``name`` and shape only.

    For weights too large to store: both sides make them.
    """
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return ((generator.random(shape) * 2 - 1) * bound).astype(np.float32)

"""Layers and models against values PyTorch computed (``make_text.py``), to 1e-4."""

import importlib.util
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.nn.losses import mse
from energyflow_mlx.nn.transformer import sinusoidal_positions
from energyflow_mlx.ops import gelu, linear_cross_entropy
from tests.text.small import make_block, make_transformer

HERE = Path(__file__).parent
TOLERANCE = 1e-4

_spec = importlib.util.spec_from_file_location("golden_layout", HERE / "layout.py")
layout = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layout)


@pytest.fixture(scope="module")
def golden():
    arrays, metadata = mx.load(str(HERE / "text.safetensors"), return_metadata=True)
    assert metadata["torch"] and metadata["seed"]
    return {name: np.array(value) for name, value in arrays.items()}


def section(golden, prefix):
    start = prefix + "/"
    return {k[len(start) :]: v for k, v in golden.items() if k.startswith(start)}


def close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.array(actual), expected, atol=tolerance, rtol=0)


def install(module, arrays):
    """Set every parameter, and only known ones."""
    have = {name for name, _ in tree_flatten(module.parameters())}
    assert have == set(arrays)
    module.update(tree_unflatten([(k, mx.array(v)) for k, v in arrays.items()]))


def gradients_of(module, loss, *inputs):
    """Gradients of ``loss(*inputs)`` for the module's parameters and first input."""

    def with_parameters(parameters, *values):
        module.update(parameters)
        return loss(*values)

    grad = mx.grad(with_parameters, argnums=(0, 1))
    parameters, first = grad(module.trainable_parameters(), *inputs)
    return dict(tree_flatten(parameters)), first


class Stack(nn.Module):
    """Linear, exact GELU, LayerNorm, Linear."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(24, 48), None, nn.LayerNorm(48), nn.Linear(48, 16)]

    def __call__(self, x):
        first, _, norm, last = self.layers
        return last(norm(gelu(first(x))))


def test_linear_gelu_norm_linear_forward_and_gradients_match_torch(golden):
    data = section(golden, "mlp")
    model = Stack()
    weights = {f"layers.{k}": v for k, v in section(data, "weights").items()}
    install(model, weights)
    x, target = mx.array(data["x"]), mx.array(data["target"])
    close(model(x), data["y"])
    close(mse(model(x), target), data["loss"])
    found, dx = gradients_of(model, lambda v: mse(model(v), target), x)
    close(dx, data["dx"])
    for name, expected in section(data, "gradients").items():
        close(found[f"layers.{name}"], expected)


def test_product_gelu_and_norm_on_width_256_match_torch(golden):
    data = section(golden, "wide")
    weight = mx.array(layout.seeded_uniform("wide/weight", (256, 256), 1 / 16))
    bias = mx.array(layout.seeded_uniform("wide/bias", (256,), 0.5))
    gamma = 1 + mx.array(layout.seeded_uniform("wide/gamma", (256,), 0.3))
    beta = mx.array(layout.seeded_uniform("wide/beta", (256,), 0.3))
    product = mx.addmm(bias, mx.array(data["x"]), weight.T)
    close(product, data["product"], 1e-5)
    close(gelu(product), data["gelu"], 1e-5)
    close(gelu(product, "tanh"), data["gelu_tanh"], 1e-5)
    close(mx.fast.layer_norm(gelu(product), gamma, beta, 1e-5), data["norm"], 1e-5)


@pytest.mark.parametrize(
    ("prefix", "kernel_size", "dilation"), [("tcn_k3_d2", 3, 2), ("tcn_k5_d1", 5, 1)]
)
def test_causal_dilated_block_matches_torch(golden, prefix, kernel_size, dilation):
    """The block's own dilation is what its gradient uses."""
    data = section(golden, prefix)
    block = make_block(12, 20, kernel_size, dilation)
    install(block, layout.tcn_block(section(data, "weights")))
    x, mask, cotangent = (mx.array(data[k]) for k in ("x", "mask", "cotangent"))
    close(block(x, mask), data["y"])
    found, dx = gradients_of(block, lambda v: (block(v, mask) * cotangent).sum(), x)
    close(dx, data["dx"])
    for name, expected in layout.tcn_block(section(data, "gradients")).items():
        close(found[name], expected)


def test_transformer_encoder_forward_and_gradients_match_torch(golden):
    data = section(golden, "transformer")
    model = make_transformer(
        50, 24, dim=32, heads=4, hidden=48, max_length=13, output_tanh=True
    )
    model.eval()
    install(model, layout.transformer_encoder(section(data, "weights")))
    ids, mask, cotangent = (mx.array(data[k]) for k in ("ids", "mask", "cotangent"))
    y = model(ids, mask)
    close(y, data["y"])
    assert abs(float(y.mean()) - data["y"].mean()) < 1e-5
    assert abs(float(mx.std(y)) - data["y"].std()) < 1e-5
    found, _ = gradients_of(model, lambda m: (model(ids, m) * cotangent).sum(), mask)
    expected = layout.transformer_encoder(section(data, "gradients"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value)


def test_transformer_at_reference_size_matches_torch_output_and_statistics(golden):
    """Vocabulary 30,522, width 256, 8 heads, 512 inside."""
    data = section(golden, "full_size")
    sizes = {"dim": 256, "heads": 8, "hidden": 512, "max_length": 512}
    model = make_transformer(30522, 384, output_tanh=True, **sizes)
    model.eval()
    install(model, full_size_weights(model))
    y = np.array(model(mx.array(data["ids"]), mx.array(data["mask"])))
    assert y.shape == (4, 384)
    close(y, data["y"])
    assert abs(y.mean() - data["y"].mean()) < 1e-5
    assert abs(y.std() - data["y"].std()) < 1e-5


def full_size_weights(model):
    """The weights ``make_text.full_size`` gave its model, by PyTorch's names."""
    arrays = {"embedding.weight": (30522, 256)}
    for n in range(2):
        start = f"layers.{n}."
        arrays |= {
            start + "self_attn.in_proj_weight": (768, 256),
            start + "self_attn.in_proj_bias": (768,),
            start + "self_attn.out_proj.weight": (256, 256),
            start + "self_attn.out_proj.bias": (256,),
            start + "linear1.weight": (512, 256),
            start + "linear1.bias": (512,),
            start + "linear2.weight": (256, 512),
            start + "linear2.bias": (256,),
        }
        for norm in ("norm1", "norm2"):
            arrays |= {start + f"{norm}.{k}": (256,) for k in ("weight", "bias")}
    arrays |= {
        "head.0.weight": (256, 256),
        "head.0.bias": (256,),
        "head.2.weight": (256,),
        "head.2.bias": (256,),
        "head.4.weight": (384, 256),
        "head.4.bias": (384,),
    }
    made = {}
    for name, shape in arrays.items():
        bound = 0.04 if len(shape) == 2 else 0.1
        made[name] = layout.seeded_uniform(name, shape, bound)
        if len(shape) == 1 and name.endswith("weight"):
            made[name] = 1 + made[name]
    made["positions"] = np.array(model.positions)
    return layout.transformer_encoder(made)


def test_sinusoidal_table_matches_torch_and_the_formula(golden):
    """512 x 256."""
    table = np.array(sinusoidal_positions(512, 256))
    assert table.shape == (512, 256)
    rows = golden["transformer/sinusoid_rows"]
    close(table[[0, 1, 2, 17, 255, 511]], rows, 1e-6)
    assert table[3, 10] == pytest.approx(np.sin(3 * 10000 ** (-10 / 256)), abs=1e-6)
    assert table[3, 11] == pytest.approx(np.cos(3 * 10000 ** (-10 / 256)), abs=1e-6)


@pytest.mark.parametrize(("name", "smoothing"), [("plain", 0.0), ("smoothed", 0.1)])
def test_cross_entropy_matches_torch(golden, name, smoothing):
    data = section(golden, "cross_entropy")
    logits, targets, weights = (
        mx.array(data[k]) for k in ("logits", "targets", "weights")
    )

    # The features are the logits, and the layer passes them on.
    vocabulary = logits.shape[1]
    layer = mx.eye(vocabulary), mx.zeros(vocabulary)

    def loss(v, weights):
        return linear_cross_entropy(
            v, *layer, targets, weights, label_smoothing=smoothing
        )

    each = [loss(logits, row) for row in mx.eye(len(logits))]
    close(mx.stack(each), data[f"{name}/loss"], 1e-5)
    gradient = mx.grad(loss)(logits, weights)
    close(gradient, data[f"{name}/gradient"], 1e-6)

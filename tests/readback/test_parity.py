"""Immediate and deferred forms of every operation give the same numbers.

Immediate: the operation alone, read at once outside any batch. Deferred: all of them
in one batch with one evaluation at its end. Chained: their inputs are themselves
deferred in the same batch and handed on as lazy arrays.
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from energyflow_mlx.nn.losses import cosine, mse
from energyflow_mlx.ops import gelu, linear_cross_entropy
from energyflow_mlx.ops.causal_im2col import causal_conv1d, causal_im2col
from energyflow_mlx.ops.lattice_scatter import lattice_scatter
from energyflow_mlx.ops.masked_mean import masked_mean
from energyflow_mlx.readback import ReadbackEngine
from tests.text.small import make_block, make_decoder, make_encoder

B, L, D, H, K, V, E = 3, 8, 10, 12, 3, 17, 6


def inputs():
    rng = np.random.default_rng(5)

    def normal(*shape):
        return mx.array(rng.standard_normal(shape).astype(np.float32))

    mask = (np.arange(L) < np.array([8, 5, 1])[:, None]).astype(np.float32)
    return {
        "x": normal(B, L, D),
        "y": normal(B, L, D),
        "row": normal(B, D),
        "mask": mx.array(mask),
        "linear": normal(H, D),
        "bias": normal(H),
        "conv": normal(H, K, D),
        "gamma": normal(D),
        "table": normal(V, D),
        "ids": mx.array(rng.integers(0, V, (B, L)).astype(np.int32)),
        "logits": normal(B * L, V),
        "vector": normal(B, E),
        "teacher": normal(B, E),
        "position": mx.tanh(normal(B, L, 2)),
        "energy": normal(B, L),
    }


def backward(function, *names):
    """Gradients of a sum of squares of the operation, by the named inputs."""

    def gradient(a):
        def loss(*values):
            return mx.square(function(a | dict(zip(names, values, strict=True)))).sum()

        arguments = [a[name] for name in names]
        return mx.grad(loss, argnums=list(range(len(names))))(*arguments)

    return gradient


def module(make, call):
    """Forward of a seeded module, and its parameter gradients."""

    def run(a):
        mx.random.seed(3)
        net = make()
        return call(net, a), nn.value_and_grad(net, lambda n: call(n, a).sum())(net)

    return run


def clip_and_adamw(a):
    grads, norm = optim.clip_grad_norm({"w": a["linear"], "b": a["bias"]}, 1.0)
    optimizer = optim.AdamW(1e-2, bias_correction=True)
    parameters = {"w": a["linear"] * 0.5, "b": a["bias"] * 0.5}
    optimizer.init(parameters)
    new = optimizer.apply_gradients(grads, parameters)
    return norm, new, {k: optimizer.state[k] for k in ("w", "b")}


def masked_mean_of(a):
    return masked_mean(a["x"], a["mask"])


def layer_norm(a):
    return mx.fast.layer_norm(a["x"], a["gamma"], a["row"][0], 1e-5)


def linear(a):
    return a["x"] @ a["linear"].T + a["bias"]


def conv(a):
    return causal_conv1d(a["x"], a["conv"], a["bias"], 2)


def cross_entropy(a):
    """The features are the logits, and the layer passes them on."""
    columns = a["logits"].shape[1]
    layer = mx.eye(columns), mx.zeros(columns)
    targets = a["ids"].flatten()
    count = mx.ones(targets.shape)
    return linear_cross_entropy(a["logits"], *layer, targets, count)


def knowledge_distillation(a):
    return 1 - cosine(a["vector"], a["teacher"]).mean() + mse(a["vector"], a["teacher"])


OPERATIONS = {
    "residual_add": lambda a: a["x"] + a["y"],
    "add_broadcast_2d_into_3d": lambda a: a["x"] + a["row"][:, None],
    "mask_zero": lambda a: a["x"] * a["mask"][..., None],
    "masked_mean": masked_mean_of,
    "masked_mean_backward": backward(masked_mean_of, "x"),
    "linear_forward": linear,
    "linear_weight_and_bias_gradient": backward(linear, "linear", "bias"),
    "linear_input_gradient": backward(linear, "x"),
    "conv1d_forward": conv,
    "conv1d_backward": backward(conv, "x", "conv", "bias"),
    "gelu_forward": lambda a: (gelu(a["x"]), gelu(a["x"], "tanh")),
    "gelu_backward": backward(lambda a: gelu(a["x"]), "x"),
    "layer_norm_forward": layer_norm,
    "layer_norm_backward": backward(layer_norm, "x", "gamma", "row"),
    "embedding_gather": lambda a: a["table"][a["ids"]],
    "embedding_scatter": backward(lambda a: a["table"][a["ids"]], "table"),
    "im2col": lambda a: causal_im2col(a["x"], K, 2),
    "col2im": backward(lambda a: causal_im2col(a["x"], K, 2), "x"),
    "pack_conv_weights": lambda a: a["conv"].transpose(0, 2, 1).reshape(H, D * K),
    "distillation_metrics": lambda a: (
        mse(a["vector"], a["teacher"]),
        cosine(a["vector"], a["teacher"]).mean(),
    ),
    "distillation_gradient": backward(knowledge_distillation, "vector"),
    "cross_entropy_sum": cross_entropy,
    "cross_entropy_gradient": backward(cross_entropy, "logits"),
    "tanh": lambda a: mx.tanh(a["x"]),
    "clip_and_adamw": clip_and_adamw,
    "last_block": module(
        lambda: make_block(D, H, K, 2), lambda net, a: net(a["x"], a["mask"])
    ),
    "encoder": module(
        lambda: make_encoder(V, E, dim=D, hidden=H),
        lambda net, a: net(a["ids"], a["mask"]),
    ),
    "decoder": module(
        lambda: make_decoder(V, E, dim=D, hidden=H),
        lambda net, a: net(a["ids"], a["mask"], a["vector"]),
    ),
    "lattice_scatter": lambda a: lattice_scatter(
        a["position"], a["energy"], a["mask"], (4, 5), "bilinear"
    ),
}


@pytest.fixture(scope="module")
def deferred():
    """Every operation in one batch, with one evaluation."""
    engine = ReadbackEngine()
    with engine.batch("all"):
        a = inputs()
        readbacks = {name: engine.defer(name, f(a)) for name, f in OPERATIONS.items()}
    assert engine.evaluations == 1
    return {name: readback.value() for name, readback in readbacks.items()}


@pytest.fixture(scope="module")
def chained():
    """The same on inputs that are themselves deferred in the open batch."""
    engine = ReadbackEngine()
    with engine.batch("chain"):
        handles = {
            name: engine.defer(name, array + 0) for name, array in inputs().items()
        }
        a = {name: handle.array for name, handle in handles.items()}
        readbacks = {name: engine.defer(name, f(a)) for name, f in OPERATIONS.items()}
    assert engine.evaluations == 1
    return {name: readback.value() for name, readback in readbacks.items()}


@pytest.mark.parametrize("form", ["deferred", "chained"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_immediate_and_deferred_forms_agree(name, form, request):
    engine = ReadbackEngine()
    immediate = engine.defer(name, OPERATIONS[name](inputs())).value()
    assert engine.evaluations == 1
    batched = request.getfixturevalue(form)[name]
    for (path, expected), (_, got) in zip(
        tree_flatten(immediate), tree_flatten(batched), strict=True
    ):
        assert np.all(np.isfinite(expected)), path
        np.testing.assert_array_equal(got, expected, err_msg=path)


def test_metrics_read_after_the_sync_equal_the_host_reference(deferred):
    a = {name: np.array(value) for name, value in inputs().items()}
    mean_square, mean_cosine = deferred["distillation_metrics"]
    y, t = a["vector"], a["teacher"]
    norms = np.linalg.norm(y, axis=1) * np.linalg.norm(t, axis=1)
    assert mean_square == pytest.approx(np.mean((y - t) ** 2), abs=1e-5)
    assert mean_cosine == pytest.approx(np.mean(np.sum(y * t, 1) / norms), abs=1e-5)
    logits, targets = a["logits"].astype(np.float64), a["ids"].ravel()
    log_sum = np.log(np.exp(logits).sum(axis=1))
    expected = log_sum - logits[np.arange(len(targets)), targets]
    assert deferred["cross_entropy_sum"] == pytest.approx(expected.sum(), rel=1e-6)

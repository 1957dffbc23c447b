from pathlib import Path

import mlx.core as mx
import mlx.optimizers
import numpy as np
import pytest

from energyflow_mlx.config import OptimizerConfig
from energyflow_mlx.ops.adamw import Adamw, Rates, adamw, gradient_norm
from energyflow_mlx.training.optimizer import (
    clip_scale,
    constants,
    decays,
    init_moments,
    stepped,
)

CONFIG = OptimizerConfig(weight_decay=0.1)


def adamw_step(parameter, gradient, moments, lr, decay, config):
    rates = Rates(mx.array(1.0), lr, mx.array(True))
    state = Adamw(parameter, **moments)
    return stepped(adamw(state, gradient, rates, constants(config, decay)))


def run_steps(parameter, gradients, decay, lr=1e-2):
    moments = init_moments("w", parameter, CONFIG)
    for gradient in gradients:
        parameter, moments = adamw_step(
            parameter, gradient, moments, mx.array(lr), decay, CONFIG
        )
    return parameter


def test_adamw_equals_the_library_with_bias_correction():
    mx.random.seed(0)
    start = mx.random.normal((5, 7))
    gradients = [mx.random.normal((5, 7)) for _ in range(20)]
    library = mlx.optimizers.AdamW(
        learning_rate=1e-2, weight_decay=0.1, bias_correction=True
    )
    expected = {"w": start}
    for gradient in gradients:
        expected = library.apply_gradients({"w": gradient}, expected)
    found = run_steps(start, gradients, 0.1)
    np.testing.assert_allclose(found, expected["w"], rtol=1e-5, atol=1e-6)


def test_adamw_equals_pytorch_from_the_golden_file():
    path = Path(__file__).parents[1] / "golden" / "adamw.safetensors"
    golden, meta = mx.load(str(path), return_metadata=True)
    b1, b2 = (float(b) for b in meta["betas"].split())
    config = OptimizerConfig(betas=[b1, b2], eps=float(meta["eps"]))
    lr = mx.array(float(meta["lr"]))
    for name in ("weight", "bias"):
        value, decay = golden[f"{name}/start"], float(meta[f"decay/{name}"])
        moments = init_moments("w", value, CONFIG)
        for gradient, expected in zip(
            golden[f"{name}/gradients"], golden[f"{name}/results"], strict=True
        ):
            value, moments = adamw_step(value, gradient, moments, lr, decay, config)
            np.testing.assert_allclose(value, expected, atol=1e-5)


def test_decay_is_decoupled_from_the_moments():
    """A zero gradient leaves the moments zero and shrinks the weight by lr * decay."""
    weight = mx.ones((3, 3))
    new, moments = adamw_step(
        weight,
        mx.zeros((3, 3)),
        init_moments("w", weight, CONFIG),
        mx.array(0.1),
        0.5,
        CONFIG,
    )
    assert mx.all(moments["m"] == 0).item()
    np.testing.assert_allclose(new, 0.95 * np.ones((3, 3)), rtol=1e-6)


@pytest.mark.parametrize("updates", [0, 3])
def test_an_update_that_is_not_finite_leaves_weights_and_moments(updates):
    weight, moments = mx.ones((3, 3)), init_moments("w", mx.ones((3, 3)), CONFIG)
    for finite in (*[True] * updates, False):
        before = {"weight": weight, **moments}
        rates = Rates(mx.array(1.0), mx.array(0.1), mx.array(finite))
        gradient = mx.full((3, 3), 2.0 if finite else float("nan"))
        state = Adamw(weight, **moments)
        weight, moments = stepped(adamw(state, gradient, rates, constants(CONFIG, 0.5)))
    for name, array in {"weight": weight, **moments}.items():
        np.testing.assert_array_equal(array, before[name])


def test_biases_norms_and_tables_do_not_decay():
    matrix, vector = (2, 2), (2,)
    assert decays("encoder.head.weight", matrix)
    assert not decays("encoder.head.bias", vector)
    assert not decays("shared.0.norm.weight", vector)
    assert not decays("encoder.embedding.weight", matrix)
    assert not decays("encoder.positions", matrix)


def test_clipping_brings_3_4_to_norm_1():
    gradients = [mx.array([3.0, 4.0]), mx.array([0.0])]
    norm = gradient_norm(gradients)
    assert norm.item() == pytest.approx(5.0)
    scale = clip_scale(norm, 1.0)
    clipped = [g * scale for g in gradients]
    assert gradient_norm(clipped).item() == pytest.approx(1.0, abs=1e-5)
    assert clip_scale(norm, 0.0).item() == 1.0
    assert clip_scale(mx.array(0.3), 1.0).item() == 1.0

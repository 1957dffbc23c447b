"""Half-precision weight files keep their error bound."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.weights import (
    GROUP,
    load_full,
    load_weights,
    read_arrays,
    save_quantized,
    save_weights,
    write_arrays,
)


def weights():
    rng = np.random.default_rng(0)
    wide = np.concatenate(
        [
            rng.standard_normal(1000),
            10.0 ** rng.uniform(-9, 4, 1000) * rng.choice([-1, 1], 1000),
            [0.0, -0.0, 65504.0, -65504.0, 2.0**-24, 6.1e-5],
        ]
    )
    return {"a.weight": mx.array(wide.astype(np.float32)), "ids": mx.arange(5)}


@pytest.mark.parametrize(
    ("dtype", "relative", "absolute"),
    [
        (mx.float16, 2.0**-11, 2.0**-25),
        (mx.bfloat16, 2.0**-8, 0.0),
        (mx.float32, 0.0, 0.0),
    ],
    ids=["float16", "bfloat16", "float32"],
)
def test_error_of_an_export_is_bounded(tmp_path, dtype, relative, absolute):
    path = tmp_path / "export" / "weights.safetensors"
    save_weights(path, weights(), dtype)
    loaded = load_weights(path)
    assert loaded["a.weight"].dtype == dtype
    assert loaded["ids"].dtype == mx.int32
    x = np.array(weights()["a.weight"]).astype(np.float64)
    y = np.array(loaded["a.weight"].astype(mx.float32)).astype(np.float64)
    assert np.all(np.abs(x - y) <= relative * np.abs(x) + absolute)


def test_half_precision_halves_the_file(tmp_path):
    big = {"w": mx.ones((200, 100))}
    save_weights(tmp_path / "a.safetensors", big, mx.float32)
    save_weights(tmp_path / "b.safetensors", big, mx.float16)
    a, b = ((tmp_path / f"{n}.safetensors").stat().st_size for n in "ab")
    assert b < 0.51 * a


def test_overflow_is_refused_and_writes_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match=r"'big' must fit .*float16, got 7e\+04"):
        save_weights(path, {"big": mx.array([1.0, -70000.0])}, mx.float16)
    assert list(tmp_path.iterdir()) == []


def test_only_float_types_are_export_types(tmp_path):
    with pytest.raises(ValueError, match="must be a float type"):
        save_weights(tmp_path / "w.safetensors", weights(), mx.int8)


def test_a_bad_weight_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match=r"w\.safetensors: no such file"):
        load_weights(path)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="must be a safetensors file"):
        load_weights(path)
    save_weights(path, weights(), mx.float16)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="must be a safetensors file"):
        load_weights(path)


def test_loading_weights_is_eager(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, weights(), mx.float32)
    loaded = load_weights(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert mx.array_equal(loaded["a.weight"], weights()["a.weight"]).item()


@pytest.mark.parametrize("bits", [8, 4])
def test_matrices_in_few_bits_come_back_within_a_step(tmp_path, bits):
    rng = np.random.default_rng(0)
    arrays = {
        "a.weight": mx.array(rng.normal(size=(5, 128)).astype(np.float32)),
        "conv.weight": mx.array(rng.uniform(-3, 1, (4, 3, 64)).astype(np.float32)),
        "a.bias": mx.array(rng.normal(size=5).astype(np.float32)),
        "norm.weight": mx.ones(7),
        "odd.weight": mx.array(rng.normal(size=(5, 72)).astype(np.float32)),
        "count": mx.array([3, 4]),
    }
    save_quantized(tmp_path / "q.safetensors", arrays, bits)
    stored = load_weights(tmp_path / "q.safetensors")
    back = load_full(tmp_path / "q.safetensors")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        found, expected = np.array(back[name]), np.array(array)
        if array.ndim < 2 or name == "odd.weight":  # its rows make no groups
            np.testing.assert_array_equal(found, expected)
            continue
        groups = expected.reshape(*array.shape[:-1], -1, GROUP)
        step = np.ptp(groups, axis=-1, keepdims=True) / (2**bits - 1)
        error = np.abs(found.reshape(groups.shape) - groups)
        # Zero must be one of the values, so the range is cut or widened a little.
        assert (
            error <= (1.05 if bits == 8 else 1.6) * step
        ).all() and error.mean() < 0.35 * step.mean()
        assert error.max() > 0.1 * step.min()
        layer = name.removesuffix(".weight")
        assert stored[name].dtype == mx.uint32
        assert stored[f"{layer}.scales"].shape == (
            *array.shape[:-1],
            array.shape[-1] // 64,
        )


def test_the_numbers_are_those_of_mlx_quantized_layers(tmp_path):
    """``mlx.nn.quantize`` reads the file as it lies there."""
    layer = nn.Linear(128, 8)
    for bits in (8, 4):
        arrays = {"l.weight": layer.weight, "l.bias": layer.bias}
        save_quantized(tmp_path / "q.safetensors", arrays, bits)
        quantized = layer.to_quantized(group_size=GROUP, bits=bits)
        stored = load_weights(tmp_path / "q.safetensors")
        for name in ("weight", "scales", "biases"):
            np.testing.assert_array_equal(stored[f"l.{name}"], quantized[name])


def test_scales_of_other_groups_are_refused(tmp_path):
    path = tmp_path / "q.safetensors"
    save_quantized(path, {"a.weight": mx.ones((4, 128))}, 8)
    arrays = load_weights(path)
    write_arrays(path, arrays | {"a.scales": mx.ones((4, 3))})
    with pytest.raises(InputError, match=r"'a.weight' must have 64 weights a scale"):
        load_full(path)


def test_integers_without_their_scales_are_refused(tmp_path):
    path = tmp_path / "q.safetensors"
    save_quantized(path, {"a.weight": mx.ones((4, 64))}, 8)
    kept = {n: a for n, a in load_weights(path).items() if not n.endswith(".scales")}
    write_arrays(path, kept)
    with pytest.raises(InputError, match="'a.weight' must come with its scales"):
        load_full(path)


def test_mlx_is_given_a_path_and_never_a_file_object(tmp_path, monkeypatch):
    """A thread of MLX that holds a Python object at exit aborts the process."""
    given = []
    original = mx.load
    monkeypatch.setattr(
        mx, "load", lambda file, **words: given.append(file) or original(file, **words)
    )
    save_weights(tmp_path / "w.safetensors", weights(), mx.float32)
    entry = write_arrays(tmp_path / "a.safetensors", weights())
    load_weights(tmp_path / "w.safetensors")
    read_arrays(tmp_path / "a.safetensors", entry)
    assert given == [str(tmp_path / n) for n in ("w.safetensors", "a.safetensors")]

"""Half-precision weight files keep their error bound."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.weights import load_weights, save_weights


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
    with pytest.raises(InputError, match=r"w\.safetensors.*No such file"):
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

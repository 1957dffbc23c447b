"""The device is chosen by name, described as it is, and never swapped silently."""

import shutil

import mlx.core as mx
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime import device


@pytest.fixture(autouse=True)
def default_device_restored():
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def test_auto_takes_the_best_backend_that_is_there():
    assert device.select("auto").backend == device.available()[0]


def test_cpu_is_always_there_and_becomes_the_default():
    found = device.select("cpu")
    assert found.backend == "cpu"
    assert mx.default_device() == mx.Device(mx.cpu)
    assert found == device.describe()


def test_description_names_the_device_and_the_version():
    found = device.select("cpu")
    assert found.name
    assert found.mlx_version == mx.__version__
    assert str(found).startswith(f"cpu, {found.name}")
    assert f"MLX {mx.__version__}" in str(found)


@pytest.mark.parametrize(
    ("there", "asked", "chosen"),
    [
        ("metal", "auto", mx.gpu),
        ("metal", "metal", mx.gpu),
        ("cuda", "auto", mx.gpu),
        ("cuda", "cuda", mx.gpu),
        ("cuda", "cpu", mx.cpu),
    ],
)
def test_chosen_backend_becomes_the_default_device(monkeypatch, there, asked, chosen):
    set_to = []
    for backend in ("metal", "cuda"):
        answer = backend == there
        monkeypatch.setattr(getattr(mx, backend), "is_available", lambda a=answer: a)
    monkeypatch.setattr(mx, "set_default_device", set_to.append)
    device.select(asked)
    assert set_to == [chosen]


@pytest.mark.parametrize("name", ["metal", "cuda"])
def test_absent_backend_raises_and_says_what_it_needs(name):
    if name in device.available():
        pytest.skip(f"{name} is available here")
    before = mx.default_device()
    with pytest.raises(InputError, match=rf"backend {name} must be available.*needs"):
        device.select(name)
    assert mx.default_device() == before


def test_unknown_name_raises_and_lists_the_choices():
    with pytest.raises(ValueError, match=r"one of auto, cpu, metal, cuda, got 'gpu'"):
        device.select("gpu")


def test_missing_jit_compiler_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = device.select("cpu")
    assert not found.compiles
    assert "mx.compile idle: no g++" in str(found)


@pytest.mark.metal
def test_metal_device_is_described():
    found = device.select("metal")
    assert found.compiles and found.memory_bytes > 2**30


@pytest.mark.cuda
def test_cuda_device_is_described():
    found = device.select("cuda")
    assert found.compiles and found.memory_bytes > 2**30


@pytest.mark.parametrize(
    ("backend", "architecture", "expected"),
    [
        ("cpu", "x86_64", "float32"),
        ("metal", "applegpu_g14s", "bfloat16"),
        ("cuda", "sm_90a", "bfloat16"),
        ("cuda", "sm_80", "bfloat16"),
        ("cuda", "sm_75", "float16"),
    ],
)
def test_the_fast_format_is_the_one_the_device_multiplies_well(
    monkeypatch, backend, architecture, expected
):
    found = device.describe()._replace(backend=backend, architecture=architecture)
    monkeypatch.setattr(device, "describe", lambda: found)
    assert device.fast_format() == expected

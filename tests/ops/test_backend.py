"""Choice of backend, kernel sources and the one launch."""

import re
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from energyflow_mlx.ops import _backend, causal_im2col, masked_mean
from energyflow_mlx.ops._backend import KernelSpec, kernel_folder, resolve, source

CHECKOUT = Path(__file__).resolve().parents[2]
OPS = ("masked_mean", "causal_im2col", "lattice_scatter", "gru_blend", "gelu")
KERNELS = sorted(kernel_folder().glob("*/*.metal"))
PARTS = [path for path in KERNELS if path.stem != "header"]


@pytest.fixture
def fresh_choice():
    """Forget what was chosen before and after."""
    _backend._device_backend.cache_clear()
    yield
    _backend._device_backend.cache_clear()


def test_auto_is_the_reference_on_a_cpu(fresh_choice):
    if mx.default_device().type != mx.DeviceType.cpu:
        pytest.skip("the default device here is a GPU")
    assert {resolve("auto", op) for op in OPS} == {"reference"}


@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_backend_that_is_not_there_raises(backend):
    if _backend.available(backend):
        pytest.skip(f"{backend} is available here")
    with pytest.raises(
        RuntimeError, match=rf"\[masked_mean\] backend '{backend}' must"
    ):
        masked_mean(mx.zeros((1, 2, 3)), mx.zeros((1, 2)), backend=backend)
    with pytest.raises(RuntimeError, match=r"\[causal_im2col\]"):
        causal_im2col(mx.zeros((1, 2, 3)), 3, 1, backend=backend)


def test_unknown_backend_is_named():
    with pytest.raises(
        ValueError, match="one of auto, reference, metal, cuda, got 'gpu'"
    ):
        resolve("gpu", "masked_mean")


def test_auto_looks_at_the_device_once(monkeypatch, fresh_choice):
    looks = []

    def look():
        looks.append(1)
        return mx.Device(mx.gpu, 0)

    monkeypatch.setattr(mx, "default_device", look)
    monkeypatch.setattr(_backend, "available", lambda backend: backend == "metal")
    assert [resolve("auto", op) for op in OPS] == ["metal"] * len(OPS)
    assert len(looks) == 1


def test_kernels_are_built_on_first_use_and_kept(monkeypatch):
    built = []

    def factory(**arguments):
        built.append(arguments["name"])
        return lambda **call: [mx.zeros(s) for s in call["output_shapes"]]

    monkeypatch.setattr(_backend, "metal_kernel_factory", factory)
    monkeypatch.setattr(_backend, "available", lambda backend: True)
    _backend.clear_kernel_cache()
    for _ in range(2):
        causal_im2col(mx.zeros((1, 2, 3)), 3, 1, backend="metal")
    _backend.clear_kernel_cache()
    (name,) = built
    assert name.startswith("causal_im2col_forward_float32_")


def test_kernel_name_tells_dtypes_and_texts_apart(monkeypatch):
    """MLX finds compiled CUDA kernels by name: two programs must not share one."""
    spec = KernelSpec("x", (), (), "masked_mean", "forward")
    name = partial(_backend.kernel_name, spec)
    names = [name("cuda", [mx.float32]), name("cuda", [mx.float16])]
    names += [name("metal", [mx.float32]), name("cuda", [mx.float32, mx.float32])]
    monkeypatch.setattr(_backend, "source", lambda *_: ("another body", ""))
    names.append(name("cuda", [mx.float32]))
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"\w+", n) for n in names)


def test_sources_are_real_files_beside_or_inside_the_package():
    folder = kernel_folder()
    assert folder in (CHECKOUT / "kernels", CHECKOUT / "energyflow_mlx" / "kernels")
    spec = KernelSpec("x", (), (), "masked_mean", "forward")
    assert "simdgroup" in source(spec, "metal")[0]
    assert "__syncthreads" in source(spec, "cuda")[0]


@pytest.mark.parametrize("op", OPS)
def test_no_part_of_a_room_is_missing(op):
    folder = CHECKOUT / "kernels" / op
    for part in ("forward", "backward"):
        for suffix in (".metal", ".cu"):
            assert (folder / f"{part}{suffix}").is_file()
    module = CHECKOUT / "energyflow_mlx" / "ops" / f"{op}.py"
    text = module.read_text(encoding="utf-8")
    assert f"def {op}(" in text
    assert f"def {op}_reference(" in text
    assert (CHECKOUT / "tests" / "ops" / f"test_{op}.py").is_file()
    assert (CHECKOUT / "benchmarks" / "ops" / f"bench_{op}.py").is_file()


def test_every_kernel_folder_is_a_known_operation():
    assert sorted(p.name for p in kernel_folder().iterdir() if p.is_dir()) == sorted(
        OPS
    )


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_metal_and_cuda_twins_declare_the_same_kernel(path):
    twin = path.with_suffix(".cu")
    metal, cuda = (heading(p.read_text(encoding="utf-8")) for p in (path, twin))
    assert metal.keys() >= {"in", "out", "grid", "template"}
    for entry in ("in", "out"):
        assert metal[entry] == cuda[entry]


def heading(text):
    """Entries of the comment that opens a kernel file, by their first word."""
    entries, current = {}, None
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        match = re.match(r"// ?(in|out|grid|template)\b(.*)", line)
        if match:
            current = match[1]
            entries[current] = match[2].strip()
        elif current:
            entries[current] += " " + line[2:].strip()
    return entries


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_default_kernel_adds_floats_atomically(path):
    for text in (path, path.with_suffix(".cu")):
        assert not re.search(r"atomic\w*add", text.read_text("utf-8"), re.IGNORECASE)


def test_cuda_text_avoids_names_that_only_metal_has():
    for path in kernel_folder().glob("*/*.cu*"):
        assert not re.search(r"\buint\b|\bsimdgroup\b|metal::", path.read_text("utf-8"))

"""Choice of backend, kernel sources and the one launch."""

import re
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from energyflow_mlx.ops import _backend, causal_im2col, masked_mean
from energyflow_mlx.ops._backend import KernelSpec, kernel_folder, resolve, source

CHECKOUT = Path(__file__).resolve().parents[2]
OPS = tuple(_backend._AUTO)
# On a GPU these are made of other operations and the library's products.
COMPOSED_ON_GPU = {"adamw", "covered_tokens", "flow_carry", "tcn_block"}
TUNED_FOR_CPU = COMPOSED_ON_GPU | {
    *("embedding", "gelu", "gru_blend", "layer_norm", "linear_cross_entropy"),
}
KERNELS = sorted(kernel_folder().glob("*/*.metal"))
PARTS = [path for path in KERNELS if path.stem != "header"]


@pytest.fixture
def fresh_choice():
    """Forget what was chosen before and after."""
    _backend._device.cache_clear()
    yield
    _backend._device.cache_clear()


def test_auto_on_a_cpu_is_the_tuned_form_or_the_reference(fresh_choice):
    if mx.default_device().type != mx.DeviceType.cpu:
        pytest.skip("the default device here is a GPU")
    for op in OPS:
        expected = "cpu" if op in TUNED_FOR_CPU else "reference"
        assert resolve("auto", op) == expected


def test_plain_forms_run_anywhere_by_name():
    assert {resolve("reference", op) for op in OPS} == {"reference"}
    assert {resolve("cpu", op) for op in TUNED_FOR_CPU} == {"cpu"}


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


def test_form_that_an_operation_does_not_have_is_named():
    with pytest.raises(
        ValueError, match="one of auto, reference, metal, cuda, got 'cpu'"
    ):
        resolve("cpu", "masked_mean")


def test_auto_looks_at_the_device_once(monkeypatch, fresh_choice):
    looks = []

    def look():
        looks.append(1)
        return mx.Device(mx.gpu, 0)

    monkeypatch.setattr(mx, "default_device", look)
    monkeypatch.setattr(_backend, "available", lambda backend: backend == "metal")
    for op in OPS:
        expected = "reference" if op in COMPOSED_ON_GPU else "metal"
        assert resolve("auto", op) == expected
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
    spec = KernelSpec("masked_mean", "forward", (), ())
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
    spec = KernelSpec("masked_mean", "forward", (), ())
    assert "simdgroup" in source(spec, "metal")[0]
    assert "__syncthreads" in source(spec, "cuda")[0]


@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_shared_header_comes_before_the_own_one(backend):
    spec = KernelSpec("lattice_readout", "forward", (), (), shared="lattice_cells")
    header = source(spec, backend)[1]
    assert 0 < header.index("place_flow") < header.index("ordered_bits")
    alone = KernelSpec("lattice_readout", "forward", (), ())
    assert "place_flow" not in source(alone, backend)[1]


def test_shared_headers_are_twins_too():
    files = [path for path in kernel_folder().iterdir() if path.is_file()]
    metal, cuda = (
        {path.stem for path in files if path.suffix == suffix}
        for suffix in (".metal", ".cuh")
    )
    assert metal == cuda == {"lattice_cells"}


@pytest.mark.parametrize("op", OPS)
def test_no_part_of_a_room_is_missing(op):
    folder = CHECKOUT / "kernels" / op
    for part in ("forward", "backward"):
        for suffix in (".metal", ".cu"):
            has_kernel = (folder / f"{part}{suffix}").is_file()
            assert has_kernel == (op not in COMPOSED_ON_GPU)
    module = CHECKOUT / "energyflow_mlx" / "ops" / f"{op}.py"
    text = module.read_text(encoding="utf-8")
    assert f"def {op}(" in text
    assert f"def {op}_reference(" in text
    assert (folder / "cpu.c").is_file() == (op in TUNED_FOR_CPU)
    assert (CHECKOUT / "tests" / "ops" / f"test_{op}.py").is_file()
    assert (CHECKOUT / "benchmarks" / "ops" / f"bench_{op}.py").is_file()


def test_every_kernel_folder_and_benchmark_is_of_a_known_operation():
    folders = {path.name for path in kernel_folder().iterdir() if path.is_dir()}
    assert folders == set(OPS)
    scripts = (CHECKOUT / "benchmarks" / "ops").glob("bench_*.py")
    assert {path.stem.removeprefix("bench_") for path in scripts} == set(OPS)


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
    for path in kernel_folder().rglob("*.cu*"):
        assert not re.search(r"\buint\b|\bsimdgroup\b|metal::", path.read_text("utf-8"))

"""MLX's CPU matmul runs on OpenBLAS, and every shortfall is said, never raised."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.runtime import blas

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="macOS brings its own BLAS, Accelerate"
)
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, blas.COMPILERS)), reason="needs a C compiler"
)

REPORT = """
import json
from energyflow_mlx.runtime import blas
i = blas.info()
print(json.dumps({"status": i.status, "text": str(i), "optimised": i.is_optimized}))
"""


def start(code, checkout, **environment):
    variables = {**os.environ, "PYTHONPATH": str(checkout), **environment}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def report(checkout, code=REPORT, **environment):
    return finish(start(code, checkout, **environment))


def shims(cache: Path):
    return sorted(p.name for p in (cache / "energyflow_mlx").iterdir())


@linux_only
@needs_compiler
def test_openblas_is_active_in_this_process():
    info = blas.info()
    assert info.status == "active"
    assert info.is_optimized
    assert info.path is not None and info.path.is_file()
    assert info.threads >= 1
    assert info.advice == ""
    assert str(info).startswith(f"OpenBLAS {info.version}, {info.threads} thread")


@linux_only
@needs_compiler
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (33, 17, 65), (129, 64, 31)]
)
def test_mlx_matmul_goes_through_openblas_and_is_right(m, k, n):
    rng = np.random.default_rng(m)
    a = rng.standard_normal((m, k))
    b = rng.standard_normal((k, n))
    before = blas.forwarded_calls()
    with mx.stream(mx.cpu):
        # vectors take MLX's own gemv: two rows and columns at least for a gemm
        x = mx.array(np.repeat(a, 2, axis=0).astype(np.float32))
        y = mx.array(np.repeat(b, 2, axis=1).astype(np.float32))
        product = np.array(x @ y)
    assert blas.forwarded_calls() > before
    want = np.repeat(a, 2, axis=0) @ np.repeat(b, 2, axis=1)
    np.testing.assert_allclose(product, want, atol=1e-5 * k**0.5, rtol=1e-5)


@linux_only
@needs_compiler
def test_transposed_and_batched_matmul_is_right():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((4, 9, 13)).astype(np.float32)
    b = rng.standard_normal((4, 11, 13)).astype(np.float32)
    with mx.stream(mx.cpu):
        product = np.array(mx.array(a) @ mx.array(b).swapaxes(1, 2))
    np.testing.assert_allclose(product, a @ b.swapaxes(1, 2), atol=1e-5)


@linux_only
@needs_compiler
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_double_and_complex_matmul_is_right(dtype):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((8, 5))
    if dtype == "complex64":
        a = (a + 1j * rng.standard_normal((8, 5))).astype(np.complex64)
    before = blas.forwarded_calls()
    with mx.stream(mx.cpu):
        x = mx.array(a, dtype=getattr(mx, dtype))
        product = np.array(x @ x.T)
    assert blas.forwarded_calls() > before
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(product, a @ a.T, atol=tolerance)


@linux_only
def test_forwarding_covers_every_blas_symbol_that_mlx_uses():
    folders = importlib.util.find_spec("mlx").submodule_search_locations
    library = next(Path(f, "lib", "libmlx.so") for f in folders)
    used = set(re.findall(rb"\0(cblas_[a-z0-9_]+)\0", library.read_bytes()))
    source = Path(blas.__file__).parent / "_blas" / "forward.c"
    given = set(re.findall(rb"^void (cblas_\w+)\(", source.read_bytes(), re.M))
    assert used and used <= given


@linux_only
def test_importing_mlx_first_warns_and_is_said(checkout):
    code = (
        "import warnings\n"
        "import mlx.core\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import energyflow_mlx\n"
        "assert caught[0].category is RuntimeWarning, caught\n"
        "assert 'import energyflow_mlx before mlx.core' in str(caught[0].message)\n"
    )
    got = report(checkout, code + REPORT)
    assert got["status"] == "late"
    assert not got["optimised"]
    assert "import energyflow_mlx before mlx.core" in got["text"]


@linux_only
def test_without_a_compiler_the_header_says_so_and_results_stay_right(
    checkout, tmp_path
):
    code = REPORT + (
        "import mlx.core as mx\n"
        "assert mx.array_equal(mx.ones((4, 3)) @ mx.ones((3, 5)), mx.full((4, 5), 3))\n"
    )
    got = report(checkout, code, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert got["status"] == "no_compiler"
    assert got["text"] == (
        "reference BLAS, slow (install a C compiler (gcc or clang) and start again)"
    )


@linux_only
def test_without_the_wheel_the_header_says_so(checkout):
    code = (
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'scipy_openblas32' else find(n, *a)\n"
    )
    got = report(checkout, code + REPORT)
    assert got["status"] == "no_library"
    assert "pip install scipy-openblas32" in got["text"]


@linux_only
@needs_compiler
def test_library_is_compiled_once_and_needs_no_compiler_afterwards(checkout, tmp_path):
    assert report(checkout, XDG_CACHE_HOME=str(tmp_path))["status"] == "active"
    first = shims(tmp_path)
    assert len(first) == 1
    again = report(checkout, XDG_CACHE_HOME=str(tmp_path), PATH=str(tmp_path))
    assert again["status"] == "active"
    assert shims(tmp_path) == first


@linux_only
@needs_compiler
def test_processes_that_start_together_all_get_a_whole_library(checkout, tmp_path):
    together = [start(REPORT, checkout, XDG_CACHE_HOME=str(tmp_path)) for _ in range(4)]
    assert [finish(p)["status"] for p in together] == ["active"] * 4
    assert len(shims(tmp_path)) == 1


@linux_only
@needs_compiler
def test_a_new_library_gets_a_new_shim(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libscipy_openblas.so"
    shutil.copy(blas._find_openblas(), library)
    shim = blas._shim_for(library)
    assert blas._shim_for(library) == shim
    os.utime(library, ns=(1, 1))
    assert blas._shim_for(library) != shim


@linux_only
def test_a_failing_compiler_is_quoted_and_leaves_nothing(checkout, tmp_path):
    fake = tmp_path / "bin" / "cc"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'ld: cannot find -lc' >&2; exit 1\n")
    fake.chmod(0o755)
    cache = tmp_path / "cache"
    got = report(checkout, PATH=str(fake.parent), XDG_CACHE_HOME=str(cache))
    assert got["status"] == "failed"
    assert "ld: cannot find -lc" in got["text"]
    assert shims(cache) == []


@linux_only
@needs_compiler
def test_a_cache_that_cannot_be_written_is_said(checkout, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    got = report(checkout, XDG_CACHE_HOME=str(blocked))
    assert got["status"] == "failed"
    assert str(blocked) in got["text"]


@linux_only
@needs_compiler
def test_a_blas_that_is_already_loaded_is_not_claimed(checkout, tmp_path):
    source = tmp_path / "other.c"
    source.write_text("void cblas_sgemm(void) {}\n")
    other = tmp_path / "libother.so"
    compiler = next(filter(None, map(shutil.which, blas.COMPILERS)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", other, source], check=True)
    got = report(checkout, LD_PRELOAD=str(other))
    assert got["status"] == "overridden"
    assert got["text"].startswith("another BLAS")


def test_macos_needs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    info = blas._install()
    assert (info.status, str(info)) == ("system", "Accelerate")
    assert info.is_optimized


def test_cache_folder_follows_xdg_and_ignores_a_relative_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert blas.cache_folder() == tmp_path / "energyflow_mlx"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert blas.cache_folder() == Path.home() / ".cache" / "energyflow_mlx"


@linux_only
@needs_compiler
@pytest.mark.parametrize("given", [{}, {"OPENBLAS_THREAD_TIMEOUT": "9"}], ids=str)
def test_blas_threads_do_not_spin_long_unless_the_user_says_so(checkout, given):
    """A spinning thread takes a core from the native operation after a product."""
    code = (
        "import os\nfrom energyflow_mlx.runtime import blas\nblas.install()\n"
        "print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    )
    os.environ.pop("OPENBLAS_THREAD_TIMEOUT", None)  # this process has set it
    out, err = start(code, checkout, **given).communicate()
    assert not err
    assert int(out) <= 20 and (not given or out.strip() == "9")

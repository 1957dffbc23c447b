"""The native operations are built once, and every shortfall is said, never raised."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import gelu
from energyflow_mlx.runtime import blas, native
from tests.runtime.test_blas import finish, report, start

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a compiler"
)

REPORT = """
import json, energyflow_mlx
from energyflow_mlx.runtime import native
from energyflow_mlx import ops
import mlx.core as mx
i = native.info()
y = ops.gelu(mx.array([1.0]))
print(json.dumps({"status": i.status, "text": str(i), "advice": i.advice,
                  "form": ops.resolve("auto", "gelu"), "gelu": y.item()}))
"""


def libraries(cache: Path):
    names = (path.name for path in (cache / "energyflow_mlx").iterdir())
    return sorted(name for name in names if name.startswith(("bridge", "kernels")))


@pytest.fixture
def built(tmp_path):
    """Return a cache folder that holds this machine's libraries, as copies."""
    folder = tmp_path / "cache" / "energyflow_mlx"
    shutil.copytree(blas.cache_folder(), folder, ignore=_other_files)
    return folder.parent


def _other_files(_folder, names):
    wanted = ("bridge", "kernels", "blas")
    return [n for n in names if not (n.startswith(wanted) and n.endswith(".so"))]


@pytest.fixture
def fake_compiler(tmp_path):
    """Return a folder with compilers that note each call and build almost nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = (
        "#!/bin/sh\n"
        f"echo call >> {tmp_path}/calls\n"
        "sleep 0.5\n"
        'while [ "$1" != -o ]; do shift; done; echo built > "$2"\n'
    )
    for name in ("cc", "c++"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


@needs_compiler
def test_native_operations_are_active_in_this_process():
    info = native.info()
    assert (info.status, info.advice) == ("active", "")
    assert str(info).startswith(f"native, {info.threads} thread")
    assert all(path.is_file() for path in native._built())


@needs_compiler
@pytest.mark.slow
def test_an_empty_cache_is_filled_in_seconds(checkout, tmp_path):
    begin = time.perf_counter()
    assert report(checkout, REPORT, XDG_CACHE_HOME=str(tmp_path))["status"] == "active"
    assert time.perf_counter() - begin < 60
    assert len(libraries(tmp_path)) == 2


@needs_compiler
def test_built_libraries_need_no_compiler(checkout, built, tmp_path):
    before = libraries(built)
    got = report(checkout, REPORT, XDG_CACHE_HOME=str(built), PATH=str(tmp_path))
    assert (got["status"], got["form"]) == ("active", "cpu")
    assert libraries(built) == before


def test_without_a_compiler_the_reference_runs_and_the_header_says_so(
    checkout, tmp_path
):
    got = report(checkout, REPORT, XDG_CACHE_HOME=str(tmp_path), PATH=str(tmp_path))
    assert (got["status"], got["form"]) == ("no_compiler", "reference")
    assert got["text"] == (
        "plain MLX, slow (install a C++ compiler (g++ or clang++) and start again)"
    )
    assert got["gelu"] == pytest.approx(0.8413447, abs=1e-6)
    assert libraries(tmp_path) == []


def test_processes_that_start_together_build_once(
    checkout, fake_compiler, tmp_path, monkeypatch
):
    """What is built here does not load: only who calls the compiler is looked at."""
    code = (
        "import json, energyflow_mlx\n"
        "from energyflow_mlx.runtime import native\n"
        "print(json.dumps([str(p) for p in native._built()]))\n"
    )
    cache, path = str(tmp_path / "cache"), f"{fake_compiler}:{os.environ['PATH']}"
    # The BLAS has a library of its own, made by the same compilers.
    monkeypatch.setattr(sys, "platform", sys.platform)
    together = [
        start(code, checkout, XDG_CACHE_HOME=cache, PATH=path) for _ in range(3)
    ]
    found = [finish(process) for process in together]
    assert found[0] == found[1] == found[2]
    assert len(libraries(tmp_path / "cache")) == 2
    calls = (tmp_path / "calls").read_text().count("call")
    assert calls - 2 <= 3  # two libraries once; that of the BLAS by each


@needs_compiler
@pytest.mark.parametrize("kind", ["bridge", "kernels"])
def test_damaged_library_is_said_with_its_folder(checkout, built, kind):
    for path in (built / "energyflow_mlx").glob(f"{kind}-*.so"):
        path.write_bytes(b"no library")
    got = report(checkout, REPORT, XDG_CACHE_HOME=str(built))
    assert (got["status"], got["form"]) == ("failed", "reference")
    assert f"remove {built / 'energyflow_mlx'} and start again" in got["advice"]


def test_failing_compiler_is_quoted_and_leaves_nothing(checkout, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cc").write_text("#!/bin/sh\necho 'x.c: error: no cpu' >&2; exit 1\n")
    (folder / "cc").chmod(0o755)
    cache = tmp_path / "cache"
    got = report(checkout, REPORT, PATH=str(folder), XDG_CACHE_HOME=str(cache))
    assert got["status"] == "failed"
    assert "x.c: error: no cpu" in got["text"]
    assert libraries(cache) == []


def test_missing_headers_are_named(monkeypatch):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(native._BuildError, match="pip install nanobind") as caught:
        native._nanobind()
    assert caught.value.status == "no_headers"


def test_cache_that_cannot_be_written_is_said(checkout, tmp_path):
    (tmp_path / "file").write_text("")
    got = report(checkout, REPORT, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert got["status"] == "failed"
    assert f"{tmp_path / 'file'}" in got["text"]


def test_each_source_compiles_without_a_warning(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    command = [compiler, *native._C_FLAGS, "-Wall", "-Wextra", "-Werror", "-c"]
    for source in native._sources():
        output = tmp_path / "out.o"
        words = [
            *command,
            f"-I{native.kernel_folder()}",
            str(source),
            "-o",
            str(output),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@needs_compiler
def test_arrays_in_any_layout_are_read_in_row_order():
    x = mx.random.normal((6, 10, 4))
    for view in (
        x.transpose(2, 0, 1),
        x[::2, 1::3],
        x[:, ::-1],
        mx.broadcast_to(x[:, :1], x.shape),
        x[2, 3, 1],
    ):
        plain = mx.array(np.array(view))
        found = gelu(view, backend="cpu")
        np.testing.assert_array_equal(
            np.array(found), np.array(gelu(plain, backend="cpu"))
        )


@needs_compiler
def test_unknown_kernel_and_gpu_stream_are_errors():
    with pytest.raises(AttributeError, match="no_such_kernel"):
        native.launch("no_such_kernel", [mx.zeros(1)], [((1,), mx.float32)], [])


def test_macos_links_against_the_frameworks(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(native, "_compiler", lambda *names: names[0])
    command = native._bridge_command()
    assert command[0] == "c++"
    assert command[-4:] == ["-undefined", "dynamic_lookup", "-framework", "Accelerate"]

"""g++ behind a cache: one shared object per distinct kernel text, flags and shim."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from tests.metal_host.harness.faults import CompileFault
from tests.metal_host.harness.translate import KernelText, translation_unit

_ROOM = Path(__file__).resolve().parents[1]
_RUNTIME = _ROOM / "runtime"
_SHIM = _ROOM / "include"
_MLX_INCLUDE = Path(mx.__file__).parent / "include"
_RUNTIME_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti")
_KERNEL_FLAGS = (
    # -g1: lines and inlined calls, which is all that faults name, in half the time.
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fno-exceptions", "-fno-rtti", "-w"),
    # Rounding as written: no fused multiply-add, half rounded after each operation.
    *("-ffp-contract=off", "-fexcess-precision=16"),
    # Variables without a value hold one that shows; the optimiser passes that would
    # still exploit the missing value are off.
    *("-ftrivial-auto-var-init=pattern", "-fno-tree-ccp", "-fno-tree-fre"),
    # Every access, undefined operation and basic block calls runtime/hooks.cpp.
    "-fsanitize=thread,undefined,float-cast-overflow",
    *("-fno-sanitize=vptr,null", "-fsanitize-coverage=trace-pc"),
    *("--param", "tsan-instrument-func-entry-exit=0"),
)
_PRELUDES = {
    "metal": '#include "metal_host/metal.h"\n'
    '#include "mlx/backend/metal/kernels/utils.h"',
    "cuda": '#include "cuda_host/cuda.h"',
}


@functools.cache
def missing_requirement() -> str | None:
    """Why kernels cannot be executed here; None if they can."""
    if not sys.platform.startswith("linux"):
        return "the kernel host needs Linux"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"the kernel host does not know {platform.machine()}"
    if shutil.which("g++") is None or shutil.which("addr2line") is None:
        return "the kernel host needs g++ and addr2line"
    if int(_ask_compiler("-dumpversion").partition(".")[0]) < 12:
        return "the kernel host needs g++ 12 or later, for _Float16"
    return None


def _ask_compiler(option: str) -> str:
    return subprocess.run(["g++", option], capture_output=True, text=True).stdout


@functools.cache
def cache_folder() -> Path:
    """Per-user folder of compiled kernels; everything in it can be made again."""
    folder = Path(tempfile.gettempdir()) / f"energyflow_mlx_kernels_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"[kernel host] {folder} must belong to this user.")
    return folder


def kernel_folder() -> Path:
    """Where compiled kernels go; the tools they share stay in the folder above."""
    folder = cache_folder() / "kernels"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _tool_digest() -> str:
    """Changes when the runtime, the shim, the compiler or MLX changes."""
    files = sorted(p for d in (_RUNTIME, _SHIM) for p in d.rglob("*") if p.is_file())
    files.append(Path(__file__))  # the flags
    texts = [f"{p.relative_to(_ROOM)}\n{p.read_text()}" for p in files]
    return _digest(_ask_compiler("--version"), mx.__version__, *texts)


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileFault(name, f"g++ refuses the text:\n{done.stderr[:4000]}")


@functools.cache
def runtime_library() -> Path:
    """The executor, shared by all kernels so that they share one address arena."""
    target = cache_folder() / f"libkernel_host_{_tool_digest()}.so"
    if not target.exists():
        sources = [str(p) for p in sorted(_RUNTIME.glob("*.cpp"))]
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / "runtime.so"
            _run(
                "runtime", "g++", *_RUNTIME_FLAGS, "-shared", *sources, "-o", str(built)
            )
            built.replace(target)  # whole or not at all, whoever else builds it
    return target


def kernel_library(text: KernelText) -> Path:
    """The compiled kernel; compiles it if the cache does not hold it.

    Raises:
        CompileFault: g++ refuses the text; the message is g++'s own.
    """
    unit = translation_unit(text)
    digest = _digest(_tool_digest(), unit, *text.compile_flags)
    target = kernel_folder() / f"{digest}.so"
    if not target.exists():
        _compile_kernel(text, unit, target)
    return target


def _compile_kernel(text: KernelText, unit: str, target: Path) -> None:
    runtime = runtime_library()
    flags = _compile_command(text)
    prelude = _precompiled_prelude(text.language, *flags)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source, compiled, linked = (
            str(Path(folder) / f"kernel.{suffix}") for suffix in ("cpp", "o", "so")
        )
        Path(source).write_text(f'#include "{prelude}"\n{unit}')
        _run(text.name, *flags, "-c", source, "-o", compiled)
        # A second step, since -fsanitize when linking pulls in the vendor's run-times.
        rpath = f"-Wl,-rpath,{runtime.parent}"
        _run(text.name, "g++", "-shared", compiled, str(runtime), rpath, "-o", linked)
        Path(linked).replace(target)


def _compile_command(text: KernelText) -> tuple[str, ...]:
    includes = ("-I", str(_SHIM), "-I", str(_MLX_INCLUDE))
    return ("g++", *_KERNEL_FLAGS, *text.compile_flags, *includes)


@functools.cache
def _precompiled_prelude(language: str, *command: str) -> Path:
    """Headers parsed once for all kernels: two thirds of the time of a compile."""
    header = cache_folder() / f"prelude_{language}_{_tool_digest()}.h"
    compiled = header.with_suffix(".h.gch")
    if not compiled.exists():
        header.write_text(_PRELUDES[language])
        with tempfile.TemporaryDirectory(dir=header.parent) as folder:
            built = Path(folder) / "prelude.gch"
            _run("prelude", *command, "-x", "c++-header", str(header), "-o", str(built))
            built.replace(compiled)
    return header

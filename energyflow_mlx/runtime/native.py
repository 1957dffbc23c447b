"""The native CPU operations: C sources of ``kernels/*/cpu.c``, compiled once, loaded.

MLX's CPU backend runs elementwise work in scalar loops on one thread. The operations
that matter are therefore plain C, compiled for the machine at hand, and enter MLX's
graph through one C++ primitive, ``_native/bridge.cpp``, built against the headers of
the installed MLX. Both are compiled at the first use into the user's cache folder,
under a name that holds everything the result depends on.

Where they cannot be built, the operations run their reference, and ``info()`` says why;
the run header and ``energyflow_mlx.doctor`` print it.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple, Protocol

import mlx.core as mx

from energyflow_mlx.runtime import blas

logger = logging.getLogger(__name__)

Status = Literal["active", "no_compiler", "no_headers", "failed"]

_FOLDER = Path(__file__).parent / "_native"
_BRIDGE = "energyflow_bridge"
_COMPILE_SECONDS = 300
# Sums run in vectors where a kernel says so (`#pragma omp simd reduction`): arithmetic
# is not reordered elsewhere, and NaN and infinity keep their meaning.
_C_FLAGS = (
    "-std=gnu11 -O3 -shared -fPIC -fno-math-errno -fno-trapping-math "
    "-ffp-contract=fast -fopenmp-simd"
).split()
_CXX_FLAGS = "-std=c++20 -O2 -shared -fPIC -fvisibility=hidden -DNB_DOMAIN=mlx".split()


class NativeInfo(NamedTuple):
    """Whether the native CPU operations run.

    Attributes:
        status: ``active``, or why not: ``no_compiler``, ``no_headers`` (Python's or
            nanobind's are not installed), ``failed``.
        threads: Threads of the operations.
        advice: What to do about a shortfall, one sentence; empty when all is well.
    """

    status: Status
    threads: int
    advice: str = ""

    def __str__(self) -> str:
        """One line for the run header."""
        if self.status == "active":
            return f"native, {self.threads} thread{'s' * (self.threads != 1)}"
        return f"plain MLX, slow ({self.advice})"


class _BuildError(Exception):
    """The operations could not be built; carries the status and advice."""

    def __init__(self, status: Status, advice: str) -> None:
        super().__init__(advice)
        self.status = status


class _Loaded(NamedTuple):
    info: NativeInfo
    bridge: ModuleType | None
    kernels: ctypes.CDLL | None


def info() -> NativeInfo:
    """Load the native operations, building them first where that is wanted.

    Returns:
        What runs; kept for later calls.
    """
    return _load().info


def launch(
    name: str,
    inputs: Sequence[mx.array],
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    sizes: Sequence[int],
    reals: Sequence[float] = (),
    reuse: Sequence[tuple[int, int]] = (),
    last: Kept | None = None,
) -> list[mx.array]:
    """Call a C kernel as an operation of the graph.

    Args:
        name: The function in ``kernels/*/cpu.c``.
        inputs: Its arrays; made contiguous.
        outputs: Shape and dtype of each result.
        sizes: Whole numbers it is told.
        reals: Real numbers it is told.
        reuse: Pairs of output and input: the output may take the input's memory when
            nobody else needs it, so the kernel must bear that both are one.
        last: From ``keep_on_demand``: the last output is computed if it is asked for.

    Returns:
        One array for each of ``outputs``.

    Raises:
        RuntimeError: The native operations are not there.
    """
    loaded = _load()
    if loaded.bridge is None or loaded.kernels is None:
        raise RuntimeError(f"[native] {name} needs a build: {loaded.info.advice}.")
    address = ctypes.cast(getattr(loaded.kernels, name), ctypes.c_void_p).value
    return loaded.bridge.launch(
        name,
        address,
        list(inputs),
        [(list(shape), dtype) for shape, dtype in outputs],
        list(sizes),
        list(reals),
        list(reuse),
        last,
    )


class Kept(Protocol):
    """Whether a launch computes its last output; see ``keep_on_demand``."""

    def want(self) -> bool:
        """Ask for it; False if the launch has already run without it."""


def keep_on_demand() -> Kept:
    """Make the ``last`` of a launch: an output for the gradient, if there will be one.

    MLX does not tell a function whether it is being differentiated. Its gradient asks
    for the output while the graph is built, so before anything runs.
    """
    bridge = _load().bridge
    assert bridge is not None
    kept: Kept = bridge.Kept()
    return kept


@functools.cache
def _load() -> _Loaded:
    threads = blas.info().threads or os.cpu_count() or 1
    try:
        bridge_path, kernels_path = _built()
        kernels = ctypes.CDLL(str(kernels_path))
        bridge = _import(bridge_path)
    except _BuildError as error:
        return _Loaded(NativeInfo(error.status, threads, str(error)), None, None)
    except (OSError, ImportError) as error:
        advice = f"remove {blas.cache_folder()} and start again: {error}"
        return _Loaded(NativeInfo("failed", threads, advice), None, None)
    bridge.start(threads, *blas.thread_functions())
    return _Loaded(NativeInfo("active", threads), bridge, kernels)


def _import(path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(_BRIDGE, str(path))
    spec = importlib.util.spec_from_loader(_BRIDGE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@functools.cache
def kernel_folder() -> Path:
    """Folder of the kernel sources: inside the package, else beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "kernels", package.parent / "kernels"):
        if folder.is_dir():
            return folder
    raise RuntimeError(f"[ops] kernel sources must be in {package}/kernels, got none.")


# -- building -------------------------------------------------------------------------


def _built() -> tuple[Path, Path]:
    """Return bridge and kernels, compiled when they are not in the cache folder."""
    folder = blas.cache_folder()
    bridge = folder / f"bridge-{_digest(_bridge_identity())}.so"
    kernels = folder / f"kernels-{_digest(_kernels_identity())}.so"
    if bridge.is_file() and kernels.is_file():
        return bridge, kernels
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "native.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others wait for this build
            if not kernels.is_file():
                _run(_kernels_command(), kernels)
            if not bridge.is_file():
                logger.info("compiling the native CPU operations, once")
                _run(_bridge_command(), bridge)
    except OSError as error:
        raise _BuildError("failed", f"{folder} cannot be written: {error}") from None
    return bridge, kernels


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _sources() -> list[Path]:
    return sorted(kernel_folder().glob("*/cpu.c"))


def _bridge_identity() -> list[bytes]:
    texts = [_FOLDER / "bridge.cpp", kernel_folder() / "native.h"]
    facts = (mx.__version__, mx.__file__, sys.version, _nanobind(), *_CXX_FLAGS)
    return [repr(facts).encode(), *(text.read_bytes() for text in texts)]


def _kernels_identity() -> list[bytes]:
    texts = [*sorted(kernel_folder().rglob("*.h")), *_sources()]
    facts = (_processor(), *_C_FLAGS)
    return [repr(facts).encode(), *(text.read_bytes() for text in texts)]


def _processor() -> str:
    """What decides which instructions the compiler may use here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    flags = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return platform.machine() + flags


def _nanobind() -> Path:
    spec = importlib.util.find_spec("nanobind")
    folders = (spec.submodule_search_locations if spec else None) or []
    if not folders:
        raise _BuildError("no_headers", "pip install nanobind")
    return Path(folders[0])


def _compiler(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise _BuildError(
            "no_compiler", "install a C++ compiler (g++ or clang++) and start again"
        )
    return found


def _kernels_command() -> list[str]:
    native = "-march=native" if platform.machine() == "x86_64" else "-mcpu=native"
    command = [_compiler("cc", "gcc", "clang"), *_C_FLAGS, native]
    return [*command, f"-I{kernel_folder()}", *map(str, _sources()), "-lm"]


def _bridge_command() -> list[str]:
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise _BuildError("no_headers", "install Python's headers (python3-dev)")
    mlx, nanobind = Path(mx.__file__).parent, _nanobind()
    includes = (
        python,
        mlx / "include",
        nanobind / "include",
        nanobind / "ext" / "robin_map" / "include",
        kernel_folder(),
    )
    command = [_compiler("c++", "g++", "clang++"), *_CXX_FLAGS]
    command += [f"-I{folder}" for folder in includes]
    command += [str(_FOLDER / "bridge.cpp"), str(nanobind / "src" / "nb_combined.cpp")]
    command += [f"-L{mlx / 'lib'}", "-lmlx", f"-Wl,-rpath,{mlx / 'lib'}"]
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup", "-framework", "Accelerate"]
    return command


def _run(command: Sequence[str], target: Path) -> None:
    """Compile aside and rename: nobody loads a half-written library."""
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        done = subprocess.run(
            [*command, "-o", str(partial)],
            capture_output=True,
            text=True,
            timeout=_COMPILE_SECONDS,
        )
        if done.returncode != 0:
            errors = [x for x in done.stderr.splitlines() if "error" in x]
            last = (errors or done.stderr.strip().splitlines() or ["no message"])[0]
            raise _BuildError("failed", f"{command[0]} failed: {last}")
        partial.replace(target)
    except subprocess.TimeoutExpired:
        raise _BuildError("failed", f"{command[0]} did not finish") from None
    finally:
        partial.unlink(missing_ok=True)

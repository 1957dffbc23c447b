"""Give MLX's CPU backend an optimised BLAS; must run before ``mlx.core`` is imported.

The Linux CPU build of MLX is linked to the reference BLAS, which multiplies some
thirty times slower than OpenBLAS. The dynamic linker resolves ``cblas_sgemm`` and
its two siblings in the global scope first, so a library that defines them and is
loaded globally before MLX takes over. OpenBLAS comes from the ``scipy-openblas32``
wheel, which names its routines with a prefix: ``_blas/forward.c`` forwards the
standard names to it and is compiled once, with the system's C compiler, into the
user's cache folder. macOS needs none of this: MLX uses Accelerate there.

Nothing here raises. A shortfall leaves MLX on the reference BLAS, correct but slow,
and ``info()`` says so; the run header and ``energyflow_mlx.doctor`` print it. Only
the shortfall that one line of the caller's program mends, importing MLX first, warns.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

Status = Literal[
    "active", "system", "late", "overridden", "no_library", "no_compiler", "failed"
]

_SOURCE = Path(__file__).parent / "_blas" / "forward.c"
_WHEEL = "scipy_openblas32"
COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 60
# How long OpenBLAS's threads spin for the next product, as a power of two in cycles:
# about half a millisecond. By default it is a hundred times longer, and that time is
# taken from the native operations that follow a product: an update of the decoder took
# 327 ms in place of 224 on two cores.
_SPIN = "20"


class BlasInfo(NamedTuple):
    """Which BLAS multiplies MLX's matrices on the CPU.

    Attributes:
        status: ``active`` (OpenBLAS took over), ``system`` (the platform's own
            is good: macOS), or why not: ``late`` (MLX was imported first),
            ``overridden`` (another library already provides the symbols),
            ``no_library``, ``no_compiler``, ``failed``.
        name: The library's name, as printed in the run header.
        version: Its version, empty when unknown.
        path: The shared library that does the work; None for the platform's own.
        threads: Threads it will use; None when it cannot be asked.
        advice: What to do about a shortfall, one sentence; empty when all is well.
    """

    status: Status
    name: str
    version: str = ""
    path: Path | None = None
    threads: int | None = None
    advice: str = ""

    @property
    def is_optimized(self) -> bool:
        """Whether MLX's CPU matrix products run at the machine's speed."""
        return self.status in ("active", "system")

    def __str__(self) -> str:
        """One line for the run header."""
        text = f"{self.name} {self.version}".strip()
        if self.threads is not None:
            text += f", {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{text} ({self.advice})" if self.advice else text


class _ShimError(Exception):
    """The forwarding library could not be made; carries the status and advice."""

    def __init__(self, status: Status, advice: str) -> None:
        super().__init__(advice)
        self.status = status


_info: BlasInfo | None = None
_shim: ctypes.CDLL | None = None


def install() -> BlasInfo:
    """Load the optimised BLAS where the platform needs one; later calls do nothing.

    Returns:
        What MLX's CPU backend will use; also kept for ``info()``.
    """
    global _info
    if _info is None:
        _info = _install()
    return _info


def info() -> BlasInfo:
    """Return what ``install`` found, installing now if nobody has yet."""
    return install()


def forwarded_calls() -> int:
    """Count the matrix products that have gone through the loaded OpenBLAS.

    Returns:
        Calls since the start of the process; 0 while the library is not loaded.
    """
    return 0 if _shim is None else int(_shim.energyflow_blas_calls())


def thread_functions() -> tuple[int, int]:
    """Addresses of ``int get()`` and ``void set(int)``, the threads of one product.

    Returns:
        Both, or zeros where the loaded library is not OpenBLAS.
    """
    found = info()
    if found.status != "active" or found.path is None:
        return 0, 0
    library = ctypes.CDLL(str(found.path))
    get, change = (
        ctypes.cast(function, ctypes.c_void_p).value
        for function in (
            library.scipy_openblas_get_num_threads,
            library.scipy_openblas_set_num_threads,
        )
    )
    return get or 0, change or 0


def cache_folder() -> Path:
    """Return the user's cache folder for this package (XDG; it may not exist yet)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "energyflow_mlx"


def _install() -> BlasInfo:
    if sys.platform == "darwin":
        return BlasInfo("system", "Accelerate")
    if "mlx.core" in sys.modules:
        return _late()
    library = _find_openblas()
    if library is None:
        return _reference("no_library", "pip install scipy-openblas32")
    try:
        return _load(library, _shim_for(library))
    except _ShimError as error:
        return _reference(error.status, str(error))
    except OSError as error:
        return _reference("failed", f"OpenBLAS did not load: {error}")


def _late() -> BlasInfo:
    found = _reference("late", "import energyflow_mlx before mlx.core")
    if not sys.modules["mlx.core"].cuda.is_available():
        warnings.warn(f"matmul runs on the {found}", RuntimeWarning, stacklevel=5)
    return found


def _reference(status: Status, advice: str) -> BlasInfo:
    name = "reference BLAS, slow"
    if status == "overridden":
        name = "another BLAS"
    return BlasInfo(status, name, advice=advice)


def _find_openblas() -> Path | None:
    """Find the wheel's shared library without importing the wheel."""
    spec = importlib.util.find_spec(_WHEEL)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        for library in sorted(Path(folder, "lib").glob("libscipy_openblas*.so*")):
            return library
    return None


def _shim_for(library: Path) -> Path:
    """Return the compiled forwarding library for ``library``, compiling it once.

    The name carries a hash of everything the result depends on, so a new wheel, a
    moved environment or a changed source makes a new file. It is compiled aside and
    renamed: processes that start together cannot load a half-written one.
    """
    stat = library.stat()
    parts = (str(library), stat.st_size, stat.st_mtime_ns, os.uname().machine)
    digest = hashlib.sha256(_SOURCE.read_bytes() + repr(parts).encode())
    shim = cache_folder() / f"blas-{digest.hexdigest()[:16]}.so"
    if not shim.is_file():
        _compile(library, shim)
    return shim


def _compile(library: Path, shim: Path) -> None:
    import shutil  # only on first use: these two cost more than the whole cached path
    import subprocess

    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise _ShimError(
            "no_compiler", "install a C compiler (gcc or clang) and start again"
        )
    partial = shim.with_suffix(f".{os.getpid()}.partial")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(partial), str(_SOURCE)]
    command += [str(library), f"-Wl,-rpath,{library.parent}"]
    try:
        shim.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_SECONDS
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise _ShimError("failed", f"{compiler} failed: {last}")
        partial.replace(shim)
    except subprocess.TimeoutExpired:
        raise _ShimError("failed", f"{compiler} did not finish") from None
    finally:
        partial.unlink(missing_ok=True)


def _load(library: Path, shim: Path) -> BlasInfo:
    global _shim
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN)
    loaded = ctypes.CDLL(str(shim), mode=ctypes.RTLD_GLOBAL)
    if _address(ctypes.CDLL(None)) != _address(loaded):
        return _reference("overridden", "cblas_sgemm is already provided elsewhere")
    loaded.energyflow_blas_calls.restype = ctypes.c_ulong
    _shim = loaded
    openblas = ctypes.CDLL(str(library))
    openblas.scipy_openblas_get_config.restype = ctypes.c_char_p
    # "OpenBLAS 0.3.34 DYNAMIC_ARCH NO_AFFINITY Zen MAX_THREADS=64"
    words = openblas.scipy_openblas_get_config().decode().split()
    version = words[1] if len(words) > 1 else ""
    threads = int(openblas.scipy_openblas_get_num_threads())
    return BlasInfo("active", "OpenBLAS", version, library, threads)


def _address(library: ctypes.CDLL) -> int | None:
    return ctypes.cast(library.cblas_sgemm, ctypes.c_void_p).value

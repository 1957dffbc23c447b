"""What this machine gives the project, one finding for each thing it needs.

Read by ``energyflow_mlx.doctor``. Each finding says what is there and, where
something falls short, what to do about it; nothing here raises for a shortfall.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime import blas

if TYPE_CHECKING:
    from energyflow_mlx.runtime.device import DeviceInfo

# ok: as it should be. slow: everything runs, something slower than it could.
# missing: the main job cannot run.
Level = Literal["ok", "slow", "missing"]

_EXPECTED_RATIO = 0.6  # of NumPy's matmul rate, on the CPU
_FREE_BYTES = 2 * 2**30  # teacher vectors, runs and checkpoints of the main job


@dataclass
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        level: ``ok``, ``slow`` or ``missing``.
        value: What was found, one line.
        advice: What to do about a shortfall; empty when there is none.
        facts: The same as plain values, for ``--json``.
    """

    name: str
    level: Level
    value: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MatmulRate:
    """Matrix product rates measured in turn in one process, in GFLOP/s."""

    mlx_gflops: float
    numpy_gflops: float

    @property
    def ratio(self) -> float:
        """MLX's rate over NumPy's."""
        return self.mlx_gflops / self.numpy_gflops


def examine() -> list[Finding]:
    """Look at everything, in the order in which it matters.

    Returns:
        The findings; the machine is ready when none of them is ``missing``.
    """
    findings = [_python()]
    try:
        from energyflow_mlx.runtime import device
    except ImportError as error:  # on Linux the front end installs without a backend
        return [*findings, _mlx_missing(error), _disk()]
    found = device.describe()
    findings += [_mlx(found), _blas(found), _matmul(found), _native(found)]
    return [*findings, _compilers(found), _teacher(), _disk()]


def time_matmuls(size: int, repeats: int) -> tuple[list[float], list[float]]:
    """Time the same float32 product in MLX and in NumPy, in turn.

    Args:
        size: Rows and columns of the square matrices.
        repeats: Timed products of each, after one untimed.

    Returns:
        Seconds of each MLX product and of each NumPy product.

    Raises:
        RuntimeError: The two results differ by more than rounding.
    """
    import mlx.core as mx

    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    x = mx.array(a)
    difference = np.abs(np.array(x @ x) - a @ a).max()
    # TF32 on a GPU rounds the factors to 10 bits; sums grow like sqrt(size).
    if not difference <= 1e-2 * size**0.5:
        raise RuntimeError(
            f"[doctor] MLX's product must equal NumPy's, got {difference:.3g} off."
        )
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(x @ x)
        middle = time.perf_counter()
        a @ a
        seconds[0].append(middle - start)
        seconds[1].append(time.perf_counter() - middle)
    return seconds


def measure_matmul_rate(size: int = 1024, repeats: int = 7) -> MatmulRate:
    """Measure MLX's float32 matmul rate on its default device beside NumPy's.

    Args:
        size: Rows and columns of the square matrices.
        repeats: Timed products of each; the median counts.

    Returns:
        Both rates, ``2 * size**3 / seconds``.
    """
    operations = 2e-9 * size**3
    ours, numpys = time_matmuls(size, repeats)
    return MatmulRate(
        operations / statistics.median(ours), operations / statistics.median(numpys)
    )


def _python() -> Finding:
    version = platform.python_version()
    system = f"{platform.system()} {platform.machine()}"
    return Finding(
        "python",
        "ok",
        f"{version}, {system}",
        facts={"version": version, "system": system, "executable": sys.executable},
    )


def _mlx(found: DeviceInfo) -> Finding:
    return Finding("mlx", "ok", str(found), facts=found._asdict())


def _mlx_missing(error: ImportError) -> Finding:
    advice = "install one backend: mlx[cpu] or mlx[cuda13] on Linux, mlx on macOS"
    return Finding("mlx", "missing", f"does not import: {error}", advice)


def _blas(found: DeviceInfo) -> Finding:
    info = blas.info()
    needed = found.backend == "cpu" and not info.is_optimized
    facts = info._asdict() | {"path": None if info.path is None else str(info.path)}
    value = f"{info.name} {info.version}".strip()
    if info.threads is not None:
        value += f", {info.threads} threads"
    return Finding("blas", "slow" if needed else "ok", value, info.advice, facts)


def _matmul(found: DeviceInfo) -> Finding:
    rate = measure_matmul_rate()
    facts = {
        "mlx_gflops": round(rate.mlx_gflops, 1),
        "numpy_gflops": round(rate.numpy_gflops, 1),
        "ratio": round(rate.ratio, 3),
        "forwarded_to_openblas": blas.forwarded_calls(),
    }
    value = "MLX {mlx_gflops}, NumPy {numpy_gflops} GFLOP/s, ratio {ratio}".format_map(
        facts
    )
    if found.backend == "cpu" and rate.ratio < _EXPECTED_RATIO:
        advice = "see blas; if blas is well, another program holds the processor"
        return Finding("matmul", "slow", value, advice, facts)
    return Finding("matmul", "ok", value, facts=facts)


def _native(found: DeviceInfo) -> Finding:
    """Whether the C forms of the operations run; builds them where they are missing."""
    from energyflow_mlx.runtime import native  # needs MLX, like the device

    start = time.perf_counter()
    info = native.info()
    facts = info._asdict() | {"seconds": round(time.perf_counter() - start, 2)}
    needed = found.backend == "cpu" and info.status != "active"
    level: Level = "slow" if needed else "ok"
    if info.status == "active":
        return Finding(
            "native", level, f"C operations, {info.threads} threads", "", facts
        )
    return Finding("native", level, "no C operations", info.advice, facts)


def _compilers(found: DeviceInfo) -> Finding:
    c = next(filter(None, map(shutil.which, blas.COMPILERS)), None)
    cpp = shutil.which("g++")
    facts = {"c": c, "cpp": cpp}
    value = f"C {c or 'none'}, C++ {cpp or 'none'}"
    advice = []
    if c is None and blas.info().status == "no_compiler":
        advice.append("install a C compiler: the fast BLAS is compiled once with it")
    if not found.compiles:
        advice.append("install g++: without it mx.compile does nothing on the CPU")
    return Finding(
        "compilers", "slow" if advice else "ok", value, "; ".join(advice), facts
    )


def _teacher() -> Finding:
    # The teacher's room needs MLX, whose absence is a finding and not a crash.
    from energyflow_mlx.teacher.folder import MINILM, open_folder

    try:
        folder = open_folder(MINILM)
    except InputError as error:
        advice = f"{error} Not needed with teacher=precomputed."
        return Finding("teacher", "missing", "no usable weights", advice)
    facts = {"path": str(folder.path), "digest": folder.digest}
    return Finding("teacher", "ok", f"{folder.name} in {folder.path}", facts=facts)


def _disk() -> Finding:
    cache = blas.cache_folder()
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    free = {
        "here_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "cache_free_bytes": shutil.disk_usage(existing).free,
    }
    least = min(free.values())
    value = f"{least / 2**30:.1f} GiB free, cache {cache}"
    facts = {"cache": str(cache), **free}
    if least < _FREE_BYTES:
        advice = "free some space, or move the cache with XDG_CACHE_HOME"
        return Finding("disk", "slow", value, advice, facts)
    return Finding("disk", "ok", value, facts=facts)

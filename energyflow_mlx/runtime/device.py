"""Which device MLX computes on: chosen once at start, described for the run header.

A backend asked for by name that is not there raises; nothing falls back silently.
``auto`` takes the GPU that MLX was built for, Metal or CUDA, and else the CPU.
"""

from __future__ import annotations

import shutil
from typing import Literal, NamedTuple, cast, get_args

import mlx.core as mx

from energyflow_mlx.errors import InputError

Backend = Literal["cpu", "metal", "cuda"]
_CHOICES = ("auto", *get_args(Backend))

# mx.compile on the CPU runs this very command for each traced graph.
CPU_JIT_COMPILER = "g++"

_HOW_TO_GET = {
    "metal": "it needs macOS on Apple silicon and `pip install mlx`",
    "cuda": "it needs Linux with an NVIDIA driver and `pip install 'mlx[cuda13]'`",
}


class DeviceInfo(NamedTuple):
    """The device that MLX computes on.

    Attributes:
        backend: ``cpu``, ``metal`` or ``cuda``.
        name: The device's own name, such as ``Apple M2 Max``.
        architecture: The architecture identifier that MLX reports.
        memory_bytes: The device's memory; None where MLX does not say (CPU).
        mlx_version: MLX's version.
        compiles: Whether ``mx.compile`` fuses here. On the CPU it calls ``g++``
            at run time and silently runs uncompiled without it.
    """

    backend: Backend
    name: str
    architecture: str
    memory_bytes: int | None
    mlx_version: str
    compiles: bool

    def __str__(self) -> str:
        """One line for the run header."""
        text = f"{self.backend}, {self.name}"
        if self.memory_bytes is not None:
            text += f", {self.memory_bytes / 2**30:.0f} GiB"
        text += f", MLX {self.mlx_version}"
        return text if self.compiles else f"{text}, mx.compile idle: no g++"


def available() -> tuple[Backend, ...]:
    """List the backends that this installation of MLX can run, best first."""
    gpu: tuple[Backend, ...] = ()
    if mx.metal.is_available():
        gpu = ("metal",)
    elif mx.cuda.is_available():
        gpu = ("cuda",)
    return (*gpu, "cpu")


def select(name: str = "auto") -> DeviceInfo:
    """Make a backend MLX's default device; call it once, before any array exists.

    Args:
        name: ``auto`` (the GPU if MLX has one, else the CPU) or a backend's name.

    Returns:
        The device now in use.

    Raises:
        ValueError: ``name`` is not one of the four choices.
        InputError: The named backend is not there; says what it needs.
    """
    if name not in _CHOICES:
        choices = ", ".join(_CHOICES)
        raise ValueError(f"[device] name must be one of {choices}, got {name!r}.")
    present = available()
    backend = present[0] if name == "auto" else name
    if backend not in present:
        raise InputError(
            f"[device] backend {backend} must be available, got "
            f"{' and '.join(present)} only: {_HOW_TO_GET[backend]}."
        )
    mx.set_default_device(mx.cpu if backend == "cpu" else mx.gpu)
    return describe()


def limit_memory(*, memory_gb: float, cache_gb: float | None, wired_gb: float) -> None:
    """Bound what MLX's allocator takes; call it after ``select``.

    Args:
        memory_gb: GiB above which an evaluation waits for memory before it takes more;
            0 = MLX's own limit.
        cache_gb: GiB of freed memory that are kept for the next arrays; 0 keeps
            nothing, none = MLX's own limit.
        wired_gb: GiB that the system may not page out; 0 = none.

    Raises:
        InputError: ``wired_gb`` is asked of a device that has no such limit, or is
            above what Metal recommends.
    """
    if memory_gb:
        mx.set_memory_limit(_bytes(memory_gb))
    if cache_gb is not None:
        mx.set_cache_limit(_bytes(cache_gb))
    if not wired_gb:
        return
    if (backend := describe().backend) != "metal":
        raise InputError(
            f"[device] trainer.wired_limit_gb must be 0 but on Metal, got {wired_gb:g} "
            f"on {backend}."
        )
    facts = mx.device_info(mx.default_device())
    most = cast(int, facts["max_recommended_working_set_size"])
    if _bytes(wired_gb) > most:
        raise InputError(
            f"[device] trainer.wired_limit_gb must be <= {most / 2**30:g}, which Metal "
            f"recommends here, got {wired_gb:g}."
        )
    mx.set_wired_limit(_bytes(wired_gb))


def _bytes(gib: float) -> int:
    return int(gib * 2**30)


def describe() -> DeviceInfo:
    """Describe MLX's default device as it is now."""
    device = mx.default_device()
    backend: Backend = "cpu"
    if device.type == mx.DeviceType.gpu:
        backend = available()[0]
    facts = mx.device_info(device)
    memory = facts.get("total_memory", facts.get("memory_size"))
    return DeviceInfo(
        backend=backend,
        name=str(facts.get("device_name", "unnamed")),
        architecture=str(facts.get("architecture", "")),
        memory_bytes=None if memory is None else cast(int, memory),
        mlx_version=mx.__version__,
        compiles=backend != "cpu" or shutil.which(CPU_JIT_COMPILER) is not None,
    )


def fast_format() -> str:
    """Number format that the default device multiplies fastest without losing range.

    ``float32`` on a CPU, where MLX multiplies half formats some thirty times slower;
    ``bfloat16`` on Apple GPUs and on NVIDIA GPUs since Ampere (compute capability 8.0),
    ``float16`` on older ones, whose tensor cores know no other half format.
    """
    found = describe()
    if found.backend == "cpu":
        return "float32"
    capability = found.architecture.removeprefix("sm_").rstrip("abf")
    if found.backend == "cuda" and capability.isdigit() and int(capability) < 80:
        return "float16"
    return "bfloat16"

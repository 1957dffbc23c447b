"""Fixtures that let the operations' kernels run without their GPU.

Every kernel launch of the package goes through ``ops._backend``; the fixtures put
executing or recording stand-ins there, so the project's own Python (grid sizes,
templates, dtypes, gradients) and the shipped kernel text are both under test.
"""

import ctypes
import platform
from collections.abc import Iterator

import pytest

from energyflow_mlx.ops import _backend
from tests.metal_host.harness import KernelHost, missing_requirement

_GPU_BACKENDS = [
    pytest.param(("metal", "host"), id="metal-on-host"),
    pytest.param(("cuda", "host"), id="cuda-on-host"),
    pytest.param(("metal", "device"), id="metal-on-device", marks=pytest.mark.metal),
    pytest.param(("cuda", "device"), id="cuda-on-device", marks=pytest.mark.cuda),
]


@pytest.fixture
def dirty_memory() -> Iterator[None]:
    """Fill new memory with a large number, so that a cell nobody writes shows."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("memory is filled by glibc")
    perturb = -6  # M_PERTURB of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(perturb, 1)
    yield
    mallopt(perturb, 0)


@pytest.fixture
def kernel_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelHost]:
    """Both GPU backends, executed on the CPU with every access checked."""
    reason = missing_requirement()
    if reason:
        pytest.skip(reason)
    host = KernelHost()
    monkeypatch.setattr(_backend, "metal_kernel_factory", host.metal_kernel)
    monkeypatch.setattr(_backend, "cuda_kernel_factory", host.cuda_kernel)
    monkeypatch.setattr(_backend, "available", lambda backend: True)
    _backend.clear_kernel_cache()
    yield host
    _backend.clear_kernel_cache()


@pytest.fixture(params=_GPU_BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> str:
    """Name of a GPU backend: emulated everywhere, and the real one where it exists."""
    backend, where = request.param
    if where == "host":
        request.getfixturevalue("kernel_host")
    elif not _backend.available(backend):
        pytest.skip(f"this machine has no {backend} device")
    return backend


@pytest.fixture
def recording_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``recorded_kernels`` trace the Metal path; nothing is executed.

    For what needs a graph and not values: the kernels inside ``mx.compile`` or
    ``mx.vmap``, where a host kernel cannot run.
    """
    monkeypatch.setattr(_backend, "available", lambda backend: backend != "cuda")
    _backend.clear_kernel_cache()

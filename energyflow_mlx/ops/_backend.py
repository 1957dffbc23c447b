"""Backend choice, kernel sources and the one launch function.

Every custom operation has a plain-MLX reference and, for each GPU backend, kernel
source files under ``kernels/<folder>/``. This module decides which of the three runs,
reads the sources, builds the kernels on first use and launches them. Building is lazy
because ``mx.fast.cuda_kernel`` raises at construction on a build without CUDA.

Kernels work inside ``mx.grad``, ``mx.compile`` and ``mx.checkpoint``. Inside
``mx.vmap``, in both orders with ``mx.grad``, MLX raises ``ValueError``. A rule given to
``mx.custom_function`` cannot help: the function records the outputs of its body as
inputs of its own node, ``mx.vmap`` maps every node of that record, and so meets the
kernel, which has no rule, before it asks ours. ``backend="reference"`` can be mapped,
and gives right gradients in both orders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import mlx.core as mx

Backend = Literal["auto", "reference", "metal", "cuda"]
"""``auto`` picks by device and measured rule; the others force one implementation."""

FLOAT_DTYPES = (mx.float32, mx.float16, mx.bfloat16)

# Replaced by tests that execute the kernel text on the host.
metal_kernel_factory = mx.fast.metal_kernel
cuda_kernel_factory = mx.fast.cuda_kernel

# What `auto` runs on each GPU, by operation: the faster one in benchmarks/ops.
_AUTO: dict[str, dict[str, str]] = {
    "masked_mean": {"metal": "metal", "cuda": "cuda"},
    "causal_im2col": {"metal": "metal", "cuda": "cuda"},
    "lattice_scatter": {"metal": "metal", "cuda": "cuda"},
    "gelu": {"metal": "metal", "cuda": "cuda"},
    "gru_blend": {"metal": "metal", "cuda": "cuda"},
}

_SUFFIX = {"metal": (".metal", "header.metal"), "cuda": (".cu", "header.cuh")}


@dataclass(frozen=True)
class KernelSpec:
    """One kernel of an operation, the same for Metal and CUDA.

    Attributes:
        name: Begin of the kernel's name; letters, digits and ``_`` only.
        inputs: Buffer names of the inputs, in the order they are passed.
        outputs: Buffer names of the outputs, in the order they come back.
        folder: Folder under ``kernels/`` that holds the sources.
        part: File stem of the source; ``.metal`` or ``.cu`` is added.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    folder: str
    part: str


@cache
def kernel_folder() -> Path:
    """Folder of the kernel sources: inside the package, else beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "kernels", package.parent / "kernels"):
        if folder.is_dir():
            return folder
    raise RuntimeError(f"[ops] kernel sources must be in {package}/kernels, got none.")


def source(spec: KernelSpec, backend: str) -> tuple[str, str]:
    """Body and header text of a kernel; the header is empty when there is none."""
    suffix, header_name = _SUFFIX[backend]
    folder = kernel_folder() / spec.folder
    header = folder / header_name
    body = (folder / f"{spec.part}{suffix}").read_text(encoding="utf-8")
    return body, header.read_text(encoding="utf-8") if header.is_file() else ""


def kernel_name(
    spec: KernelSpec, backend: str, input_dtypes: Sequence[mx.Dtype]
) -> str:
    """Name under which MLX keeps a compiled kernel.

    MLX's CUDA back end finds compiled kernels by name and template values alone, in the
    process and in a folder that outlives it. So the name holds what else decides the
    code: the dtypes of the inputs and a digest of the text.
    """
    digest = hashlib.sha256("\0".join(source(spec, backend)).encode()).hexdigest()[:8]
    kinds = "_".join(str(d).removeprefix("mlx.core.") for d in input_dtypes)
    return f"{spec.name}_{kinds}_{digest}"


@cache
def _kernel(spec: KernelSpec, backend: str, input_dtypes: tuple[mx.Dtype, ...]) -> Any:
    body, header = source(spec, backend)
    factory = metal_kernel_factory if backend == "metal" else cuda_kernel_factory
    return factory(
        name=kernel_name(spec, backend, input_dtypes),
        input_names=list(spec.inputs),
        output_names=list(spec.outputs),
        source=body,
        header=header,
    )


def clear_kernel_cache() -> None:
    """Forget every built kernel, so that a replaced factory takes effect."""
    _kernel.cache_clear()


def launch(
    spec: KernelSpec,
    inputs: Sequence[mx.array],
    *,
    output_shapes: Sequence[tuple[int, ...]],
    output_dtypes: Sequence[mx.Dtype],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    template: Sequence[tuple[str, Any]] = (),
    init_value: float | None = None,
    backend: str,
) -> list[mx.array]:
    """Run one kernel; every kernel launch of the package goes through here.

    Args:
        spec: The kernel.
        inputs: One array per name in ``spec.inputs``.
        output_shapes: One shape per name in ``spec.outputs``.
        output_dtypes: One dtype per name in ``spec.outputs``.
        grid: Number of threads per axis, on both backends.
        threadgroup: Threads per group (Metal) or block (CUDA).
        template: Compile-time dtypes, integers and booleans by name.
        init_value: Value that all outputs hold before the kernel runs.
        backend: ``"metal"`` or ``"cuda"``.

    Returns:
        One array per name in ``spec.outputs``.
    """
    return _kernel(spec, backend, tuple(x.dtype for x in inputs))(
        inputs=list(inputs),
        output_shapes=[tuple(shape) for shape in output_shapes],
        output_dtypes=list(output_dtypes),
        grid=grid,
        threadgroup=threadgroup,
        template=list(template),
        init_value=init_value,
    )


def features_per_lane(dtype: mx.Dtype, backend: str) -> int:
    """Neighbouring elements one lane handles: 16 bytes on CUDA, four on Metal.

    Metal reads inputs element by element, since their base may be aligned to one
    element only; CUDA text tests the address and has a wide path.
    """
    return 16 // dtype.size if backend == "cuda" else 4


def available(backend: str) -> bool:
    """Whether this machine can run the backend."""
    if backend == "metal":
        return mx.metal.is_available()
    if backend == "cuda":
        return mx.cuda.is_available()
    return backend == "reference"


@cache
def _device_backend() -> str:
    """GPU backend of the default device, looked at once; reference on a CPU."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "reference"
    return next((b for b in ("metal", "cuda") if available(b)), "reference")


def resolve(backend: str, op: str) -> str:
    """Name of the implementation that will run.

    Args:
        backend: What the caller asked for.
        op: The operation, by the name of its room.

    Returns:
        ``"reference"``, ``"metal"`` or ``"cuda"``.

    Raises:
        ValueError: ``backend`` is not one of the four names.
        RuntimeError: A backend asked for by name is not on this machine.
    """
    if backend == "auto":
        device = _device_backend()
        return _AUTO[op].get(device, "reference")
    if backend not in get_args(Backend):
        names = ", ".join(get_args(Backend))
        raise ValueError(f"[{op}] backend must be one of {names}, got {backend!r}.")
    if not available(backend):
        raise RuntimeError(
            f"[{op}] backend {backend!r} must be available, got an MLX without it."
        )
    return backend

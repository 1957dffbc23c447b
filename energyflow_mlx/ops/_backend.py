"""Backend choice, kernel sources and the one launch function.

Every custom operation has a reference in plain MLX, where it pays a native form in C
for the CPU, and for each GPU backend kernel source files, all under ``kernels/<op>/``.
This module decides which of them runs, reads the sources, builds the GPU kernels on
first use and launches them; ``runtime.native`` does the same for the CPU's.
Building is lazy because ``mx.fast.cuda_kernel`` raises at construction on a build
without CUDA.

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
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from energyflow_mlx.runtime import native
from energyflow_mlx.runtime.native import kernel_folder

Backend = Literal["auto", "reference", "cpu", "metal", "cuda"]
"""``auto`` picks by device and measured rule; the others force one implementation.

``cpu`` is the native form, in C, of the operations that have one."""

FLOAT_DTYPES = (mx.float32, mx.float16, mx.bfloat16)

# Replaced by tests that execute the kernel text on the host.
metal_kernel_factory = mx.fast.metal_kernel
cuda_kernel_factory = mx.fast.cuda_kernel

# What `auto` runs on each device, by operation: the fastest one in benchmarks/ops. An
# operation without a native form runs its reference on the CPU.
_AUTO: dict[str, dict[str, str]] = {
    "masked_mean": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "causal_im2col": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "lattice_scatter": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "lattice_readout": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "field_write": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "field_read": {"cpu": "reference", "metal": "metal", "cuda": "cuda"},
    "gelu": {"cpu": "cpu", "metal": "metal", "cuda": "cuda"},
    "covered_tokens": {"cpu": "cpu", "metal": "reference", "cuda": "reference"},
    "layer_norm": {"cpu": "cpu", "metal": "metal", "cuda": "cuda"},
    "tcn_block": {"cpu": "cpu", "metal": "reference", "cuda": "reference"},
    "flow_carry": {"cpu": "cpu", "metal": "reference", "cuda": "reference"},
    "gru_blend": {"cpu": "cpu", "metal": "metal", "cuda": "cuda"},
    "adamw": {"cpu": "cpu", "metal": "reference", "cuda": "reference"},
    "linear_cross_entropy": {"cpu": "cpu", "metal": "metal", "cuda": "cuda"},
    "embedding": {"cpu": "cpu", "metal": "metal", "cuda": "cuda"},
}

# Suffixes of a kernel's body and of headers.
_SUFFIXES = {"metal": (".metal", ".metal"), "cuda": (".cu", ".cuh")}


@dataclass(frozen=True)
class KernelSpec:
    """One kernel of an operation, the same for Metal and CUDA.

    Attributes:
        op: The operation; its sources are in ``kernels/<op>/``.
        part: File stem of the body: ``forward``, ``backward``, or a stage between.
        inputs: Buffer names of the inputs, in the order they are passed.
        outputs: Buffer names of the outputs, in the order they come back.
        shared: Stem of a header in ``kernels/`` that operations share, put before
            the operation's own.
    """

    op: str
    part: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared: str | None = None


class Threads(NamedTuple):
    """How many threads a kernel runs with, on one axis, and what it is compiled for.

    Attributes:
        total: Threads in all.
        group: Threads a group (Metal) or block (CUDA).
        template: Compile-time dtypes, integers and booleans by name.
    """

    total: int
    group: int
    template: Sequence[tuple[str, Any]]


def source(spec: KernelSpec, backend: str) -> tuple[str, str]:
    """Body and header text of a kernel; the header is empty when there is none."""
    body_suffix, header_suffix = _SUFFIXES[backend]
    folder = kernel_folder()
    headers = [folder / spec.op / f"header{header_suffix}"]
    if spec.shared is not None:
        headers.insert(0, folder / f"{spec.shared}{header_suffix}")
    body = (folder / spec.op / f"{spec.part}{body_suffix}").read_text(encoding="utf-8")
    texts = [h.read_text(encoding="utf-8") for h in headers if h.is_file()]
    return body, "\n".join(texts)


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
    return f"{spec.op}_{spec.part}_{kinds}_{digest}"


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
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    threads: Threads,
    backend: str,
) -> list[mx.array]:
    """Run one kernel; every kernel launch of the package goes through here.

    Args:
        spec: The kernel.
        inputs: One array per name in ``spec.inputs``.
        outputs: Shape and dtype for every name in ``spec.outputs``.
        threads: How many threads, and what they are compiled for.
        backend: ``"metal"`` or ``"cuda"``.

    Returns:
        One array per name in ``spec.outputs``.
    """
    return _kernel(spec, backend, tuple(x.dtype for x in inputs))(
        inputs=list(inputs),
        output_shapes=[tuple(shape) for shape, _ in outputs],
        output_dtypes=[dtype for _, dtype in outputs],
        grid=(threads.total, 1, 1),
        threadgroup=(threads.group, 1, 1),
        template=list(threads.template),
    )


def features_per_lane(dtype: mx.Dtype, backend: str) -> int:
    """Neighbouring elements one lane handles: 16 bytes on CUDA, four on Metal.

    Metal reads inputs element by element, since their base may be aligned to one
    element only; CUDA text tests the address and has a wide path.
    """
    return 16 // dtype.size if backend == "cuda" else 4


def available(backend: str) -> bool:
    """Whether this machine can run the backend; plain MLX runs anywhere."""
    if backend == "metal":
        return mx.metal.is_available()
    if backend == "cuda":
        return mx.cuda.is_available()
    if backend == "cpu":
        return native.info().status == "active"
    return backend == "reference"


@cache
def _device() -> str:
    """Kind of the default device, looked at once: ``cpu``, ``metal`` or ``cuda``."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return next((b for b in ("metal", "cuda") if available(b)), "cpu")


def on_gpu() -> bool:
    """Whether the default device is a GPU."""
    return _device() != "cpu"


def resolve(backend: str, op: str) -> str:
    """Name of the implementation that will run.

    Args:
        backend: What the caller asked for.
        op: The operation, by the name of its room.

    Returns:
        ``"reference"``, ``"cpu"``, ``"metal"`` or ``"cuda"``.

    Raises:
        ValueError: The operation has no form of the name ``backend``.
        RuntimeError: A backend asked for by name is not on this machine.
    """
    forms = _AUTO[op]
    if backend == "auto":
        form = forms[_device()]
        # The one stand-in: without a compiler there are no native forms. The run
        # header and the doctor say so.
        return form if form != "cpu" or available("cpu") else "reference"
    names = dict.fromkeys(("auto", "reference", *forms.values()))
    if backend not in names:
        raise ValueError(
            f"[{op}] backend must be one of {', '.join(names)}, got {backend!r}."
        )
    if not available(backend):
        raise RuntimeError(
            f"[{op}] backend {backend!r} must be available, got an MLX without it."
        )
    return backend

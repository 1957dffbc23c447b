"""The text MLX itself would hand to Apple's compiler, recorded without a Mac.

``mx.export_function`` traces a call of a real ``mx.fast.metal_kernel`` object and
reports the primitive with its generated source. So buffer order, address spaces and
the substring search for shape arguments and attributes are MLX's own, not ours.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from tests.metal_host.harness.faults import CompileFault
from tests.metal_host.harness.translate import KernelText, Parameter

_VECTOR_ATTRIBUTES = {
    "thread_position_in_grid": "position_in_grid",
    "thread_position_in_threadgroup": "position_in_group",
    "threadgroup_position_in_grid": "group_position",
    "threads_per_threadgroup": "group_size",
    "dispatch_threads_per_threadgroup": "dispatch_group_size",
    "threadgroups_per_grid": "groups",
    "threads_per_grid": "grid",
}
_SCALAR_ATTRIBUTES = {
    "thread_index_in_threadgroup": "index_in_group",
    "thread_index_in_simdgroup": "lane",
    "simdgroup_index_in_threadgroup": "simdgroup",
    "simdgroups_per_threadgroup": "simdgroups",
    "dispatch_simdgroups_per_threadgroup": "dispatch_simdgroups",
}
_CONSTANT_ATTRIBUTES = {
    "threads_per_simdgroup": "kSimdWidth",
    "thread_execution_width": "kSimdWidth",
}
_PARAMETER = re.compile(r"\s*(.*?)\s*(\w+) \[\[(\w+)(?:\((\d+)\))?\]\]")
_SIGNATURE = re.compile(r"\[\[kernel\]\] void ([^\n]*?)\(\n(.*?)\) \{\n", re.DOTALL)


@dataclass(frozen=True)
class RecordedKernel:
    """One ``CustomKernel`` node of a traced function."""

    name: str
    source: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]


def recorded_kernels(
    function: Callable[..., Any], *arguments: mx.array
) -> list[RecordedKernel]:
    """The kernels that ``function`` would launch, in order; nothing is executed."""
    found: list[RecordedKernel] = []

    def visit(node: Mapping[str, Any]) -> None:
        if node.get("type") == "primitive" and node["name"] == "CustomKernel":
            name, source, *sizes = node["arguments"]
            grid, threadgroup = tuple(sizes[:3]), tuple(sizes[3:6])
            found.append(RecordedKernel(name, source, grid, threadgroup))

    placeholders = [mx.zeros(x.shape, x.dtype) for x in arguments]
    mx.export_function(visit, function, *placeholders)
    return found


def capture(
    kernel: Callable[..., Any],
    inputs: Sequence[mx.array],
    call: Mapping[str, Any],
) -> str:
    """MLX's generated text for one call of a ``mx.fast.metal_kernel`` object."""
    records = recorded_kernels(lambda *x: kernel(inputs=list(x), **call), *inputs)
    return records[0].source


def parse(name: str, generated: str, header: str, source: str) -> KernelText:
    """Split MLX's text into the author's parts and the signature between them."""
    function_text, _, instantiation = generated.partition("\ntemplate [[host_name(")
    start = len(header)
    end = function_text.rindex(source)
    before, after = function_text[start:end], function_text[end + len(source) :]
    signature = _SIGNATURE.search(before)
    if not signature or not re.fullmatch(r"[A-Za-z_]\w*", signature[1]):
        raise CompileFault(
            name, f"kernel names take letters, digits and _ only:\n{before}"
        )
    if before[signature.end() :].strip():
        raise CompileFault(
            name,
            "MLX wrote a malformed signature: a kernel with two outputs and a shape "
            "argument needs an attribute such as thread_position_in_grid in its "
            f"source:\n{before}",
        )
    arguments = re.search(r"decltype\(\w+(<.*?>)\) \w+", instantiation)
    # One name for all dtypes and small inputs, so that equal code is compiled once.
    before = before.replace(signature[1], "kernel_function")
    before = before.replace("[[kernel]] ", "").replace("constant ", "device ")
    return KernelText(
        name=name,
        language="metal",
        header=header,
        source=source,
        before=re.sub(r" \[\[.*?\]\]", "", before),
        after=after,
        function="kernel_function" + (arguments[1] if arguments else ""),
        parameters=tuple(_parameter(name, p) for p in signature[2].split(",\n")),
        compile_flags=("-fsingle-precision-constant",),
    )


def _parameter(kernel: str, text: str) -> Parameter:
    declared, name, attribute, _ = _PARAMETER.fullmatch(text).groups()
    if attribute == "buffer":
        bare = re.sub(r"\b(device|constant)\b\s*", "", declared)
        if bare.endswith("&"):
            return Parameter(name, bare[:-1], f"*({bare[:-1]}*)buffers[{{i}}]")
        return Parameter(name, bare[:-1].strip(), f"({bare})buffers[{{i}}]")
    if attribute in _VECTOR_ATTRIBUTES:
        member = f"thread_index->{_VECTOR_ATTRIBUTES[attribute]}"
        return Parameter(name, None, f"uint3({member}[0], {member}[1], {member}[2])")
    if attribute in _SCALAR_ATTRIBUTES:
        return Parameter(name, None, f"thread_index->{_SCALAR_ATTRIBUTES[attribute]}")
    if attribute in _CONSTANT_ATTRIBUTES:
        return Parameter(name, None, _CONSTANT_ATTRIBUTES[attribute])
    raise CompileFault(
        kernel,
        f"the attribute [[{attribute}]] has no meaning here. MLX adds an attribute for "
        "any name in the source that contains the attribute's name, comments included.",
    )

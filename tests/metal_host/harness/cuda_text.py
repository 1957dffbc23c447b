"""The function that MLX's CUDA back end writes around a kernel body.

A CPU build of MLX cannot produce this text, so it is rebuilt from MLX's documented
rules: inputs and outputs are plain pointers (0-d inputs too), shape arguments found in
the source go by value, template arguments become declarations inside the body.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from tests.metal_host.harness.translate import KernelText, Parameter

_TYPES = {
    mx.bool_: "bool",
    mx.uint8: "uint8_t",
    mx.int8: "int8_t",
    mx.uint16: "uint16_t",
    mx.int16: "int16_t",
    mx.uint32: "uint32_t",
    mx.int32: "int32_t",
    mx.uint64: "uint64_t",
    mx.int64: "int64_t",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.float32: "float",
}
_SHAPE_ARGUMENTS = {"_shape": "Shape", "_strides": "Strides", "_ndim": "int"}
_MAX_DIMENSIONS = 10


def padded(suffix: str, values: np.ndarray) -> np.ndarray:
    """Shape and Strides have room for ten dimensions; the rest is zero."""
    if suffix == "_ndim":
        return values
    return np.pad(values, (0, _MAX_DIMENSIONS - len(values)))


def compose(
    name: str,
    header: str,
    source: str,
    *,
    inputs: Sequence[tuple[str, mx.array]],
    outputs: Sequence[tuple[str, mx.Dtype]],
    template: Sequence[tuple[str, Any]],
) -> KernelText:
    """Header, signature and body for one launch."""
    signature: list[str] = []
    parameters: list[Parameter] = []

    def add(name: str, kind: str, *, by_value: bool) -> None:
        pointer = f"{kind}*"
        cast = f"({pointer})buffers[{{i}}]"
        parameters.append(Parameter(name, kind, f"*{cast}" if by_value else cast))
        passed = f"const __grid_constant__ {kind}" if by_value else pointer
        signature.append(f"    {passed} {name}")

    for input_name, array in inputs:
        add(input_name, f"const {_TYPES[array.dtype]}", by_value=False)
        for suffix, kind in _SHAPE_ARGUMENTS.items():
            if array.ndim and input_name + suffix in source:
                add(
                    input_name + suffix,
                    f"mlx::core::cu::{kind}" if kind != "int" else kind,
                    by_value=True,
                )
    for output_name, dtype in outputs:
        add(output_name, _TYPES[dtype], by_value=False)
    before = "\nnamespace mlx::core::cu {\nnamespace cg = cooperative_groups;\n"
    before += "__global__ void kernel_function(\n" + ",\n".join(signature) + ") {\n"
    before += "".join(_template_line(key, value) for key, value in template)
    return KernelText(
        name=name,
        language="cuda",
        header=header,
        source=source,
        before=before,
        after="\n}\n}  // namespace mlx::core::cu\n",
        function="mlx::core::cu::kernel_function",
        parameters=tuple(parameters),
    )


def _template_line(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"  constexpr bool {name} = {str(value).lower()};\n"
    if isinstance(value, int):
        return f"  constexpr int {name} = {value};\n"
    if isinstance(value, mx.Dtype):
        return f"  using {name} = {_TYPES[value]};\n"
    raise ValueError(
        f"[{name}] template arguments are bool, int or dtype, got {value!r}."
    )

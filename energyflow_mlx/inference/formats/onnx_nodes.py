"""A few words to write an ONNX graph with: nodes, constants, weights.

https://onnx.ai/onnx/operators: the operators that ``Graph.node`` names. Needs the extra
``onnx``.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from energyflow_mlx.errors import InputError

OPSET = 17  # the first with LayerNormalization; ScatterElements adds since 16
_IR_VERSION = 8  # what runtimes of that opset read
_INSTALL = "pip install 'energyflow-mlx[onnx]'"

# What a node takes: the name of another's output, or a constant.
Value = str


def require_onnx(call: str) -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        InputError: One is not installed.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"[{call}] needs {package}: {_INSTALL}")


class Graph:
    """A graph that is being written; every method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._known: dict[bytes, str] = {}

    def constant(self, values: Any, dtype: type = np.int64) -> Value:
        """An array that is part of the graph; equal ones are stored once.

        Args:
            values: What ``np.asarray`` takes.
            dtype: Its dtype.
        """
        array: np.ndarray = np.array(values, dtype, order="C")
        key = repr((array.dtype.str, array.shape)).encode() + array.tobytes()
        if key not in self._known:
            self._known[key] = f"c{len(self._arrays)}"
            self._arrays[self._known[key]] = array
        return self._known[key]

    def node(
        self, operator: str, *inputs: Value, name: str | None = None, **settings: Any
    ) -> Value:
        """One operator with one result.

        Args:
            operator: Its name in the standard.
            *inputs: Its inputs.
            name: Name of the result.
            **settings: Its attributes.
        """
        from onnx import helper

        result = name or f"n{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, list(inputs), [result], **settings)
        )
        return result

    def cast(self, x: Value, dtype: type) -> Value:
        """``x`` in another dtype."""
        from onnx import helper

        return self.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def range(self, stop: Value) -> Value:
        """0, 1, ... below a scalar."""
        return self.node("Range", self.constant(0), stop, self.constant(1))

    def linear(self, x: Value, weight: np.ndarray, bias: np.ndarray | None) -> Value:
        """``x @ weight.T + bias`` over the last axis of ``x``."""
        y = self.node("MatMul", x, self.constant(weight.T, np.float32))
        if bias is None:
            return y
        return self.node("Add", y, self.constant(bias, np.float32))

    def model(
        self,
        inputs: dict[str, Sequence[str]],
        outputs: dict[str, Sequence[str | int]],
    ) -> Any:
        """The whole graph, checked, as an ``onnx.ModelProto``.

        Args:
            inputs: int64 inputs and the names of their axes.
            outputs: float32 outputs and the names or sizes of their axes.
        """
        import onnx
        from onnx import helper, numpy_helper

        def described(axes: dict[str, Any], kind: int) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, kind, list(shape))
                for name, shape in axes.items()
            ]

        graph = helper.make_graph(
            self._nodes,
            "energyflow",
            described(inputs, onnx.TensorProto.INT64),
            described(outputs, onnx.TensorProto.FLOAT),
            [numpy_helper.from_array(a, name) for name, a in self._arrays.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="energyflow_mlx",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

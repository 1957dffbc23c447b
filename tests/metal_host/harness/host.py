"""Stand-ins for ``mx.fast.metal_kernel`` and ``mx.fast.cuda_kernel``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.metal_host.harness import arrays, cuda_text, lint, metal_text
from tests.metal_host.harness.faults import KernelFault
from tests.metal_host.harness.launcher import (
    Geometry,
    HostBuffer,
    RunStatistics,
    run,
)
from tests.metal_host.harness.options import HostOptions
from tests.metal_host.harness.translate import KernelText

_METAL_GROUP_MEMORY = 32 << 10
_CUDA_STATIC_GROUP_MEMORY = 48 << 10
_MAX_GROUP_THREADS = 1024
_MAX_METAL_BUFFERS = 31
_MAX_CUDA_BLOCKS = (2**31 - 1, 65535, 65535)

Kernel = Callable[..., list[mx.array]]


@dataclass(frozen=True)
class LaunchRecord:
    """One launch that went through a host, in the order they happened."""

    name: str
    language: str
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    statistics: tuple[RunStatistics, ...]


class KernelHost:
    """Builds kernels that run on the CPU, every access checked.

    ``host.metal_kernel`` and ``host.cuda_kernel`` are called exactly like the functions
    of ``mx.fast`` whose names they carry, and so are the kernels they return.

    Attributes:
        options: How launches are run; may be replaced between launches.
        launches: What has run so far.
    """

    def __init__(self, options: HostOptions | None = None) -> None:
        self.options = options or HostOptions()
        self.launches: list[LaunchRecord] = []
        self._cuda_texts: dict[str, KernelText] = {}

    def metal_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: Mapping[str, str] | None = None,
    ) -> Kernel:
        """Same call as ``mx.fast.metal_kernel``; also lints the text."""
        lint.check(name, header, source, input_names, output_names)
        recorder = mx.fast.metal_kernel(
            name=name,
            input_names=input_names,
            output_names=output_names,
            source=source,
            header=header,
            ensure_row_contiguous=ensure_row_contiguous,
            atomic_outputs=atomic_outputs,
            compile_options=compile_options,
        )

        def text_of(call: "_Call") -> KernelText:
            generated = metal_text.capture(
                recorder, call.inputs, call.traced_keywords()
            )
            return metal_text.parse(name, generated, header, source)

        return _HostKernel(
            host=self,
            language="metal",
            name=name,
            input_names=list(input_names),
            output_names=list(output_names),
            is_dense=ensure_row_contiguous,
            text_of=text_of,
        )

    def cuda_kernel(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        shared_memory: int = 0,
    ) -> Kernel:
        """Same call as ``mx.fast.cuda_kernel``."""

        def text_of(call: "_Call") -> KernelText:
            text = cuda_text.compose(
                name,
                header,
                source,
                inputs=list(zip(input_names, call.inputs, strict=True)),
                outputs=list(zip(output_names, call.output_dtypes, strict=True)),
                template=call.template,
            )
            key = f"{name}{[value for _, value in call.template]}"
            if self._cuda_texts.setdefault(key, text) != text:
                raise KernelFault(
                    name,
                    "name-clash",
                    "MLX finds compiled CUDA kernels by name and template values "
                    f"alone: for {key} it would run another text, compiled before.",
                )
            return text

        return _HostKernel(
            host=self,
            language="cuda",
            name=name,
            input_names=list(input_names),
            output_names=list(output_names),
            is_dense=ensure_row_contiguous,
            text_of=text_of,
            dynamic_bytes=shared_memory,
        )


@dataclass
class _Call:
    """Arguments of one launch."""

    inputs: list[mx.array]
    output_shapes: list[tuple[int, ...]]
    output_dtypes: list[mx.Dtype]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    template: list[tuple[str, Any]]
    init_value: float | None

    def traced_keywords(self) -> dict[str, Any]:
        return {
            "output_shapes": self.output_shapes,
            "output_dtypes": self.output_dtypes,
            "grid": self.grid,
            "threadgroup": self.threadgroup,
            "template": self.template,
        }


@dataclass
class _HostKernel:
    """A kernel object: call it as MLX's own are called."""

    host: KernelHost
    language: str
    name: str
    input_names: list[str]
    output_names: list[str]
    is_dense: bool  # inputs are copied to row-major order, as MLX does by default
    text_of: Callable[[_Call], KernelText]
    dynamic_bytes: int = 0

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        template: Sequence[tuple[str, Any]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        call = _Call(
            inputs=[x if isinstance(x, mx.array) else mx.array(x) for x in inputs],
            output_shapes=[tuple(shape) for shape in output_shapes],
            output_dtypes=list(output_dtypes),
            grid=tuple(grid),
            threadgroup=tuple(threadgroup),
            template=list(template or []),
            init_value=init_value,
        )
        self._evaluate(call.inputs)
        geometry = self._geometry(call)
        text = self.text_of(call)
        outputs = self._run_schedules(text, call, geometry)
        return [
            arrays.to_mlx(storage, shape, dtype)
            for storage, shape, dtype in zip(
                outputs, call.output_shapes, call.output_dtypes, strict=True
            )
        ]

    def _evaluate(self, inputs: list[mx.array]) -> None:
        try:
            mx.eval(inputs)
        except ValueError as error:
            raise RuntimeError(
                f"[{self.name}] host kernels need values: call mx.disable_compile() "
                "first, and check mx.compile and mx.vmap with recorded_kernels()."
            ) from error

    def _geometry(self, call: _Call) -> Geometry:
        """Launch size under the rules of the back end."""
        if min(call.grid) < 1 or min(call.threadgroup) < 1:
            self._limit(f"grid {call.grid} or group {call.threadgroup} is empty")
        if any(0 in shape for shape in call.output_shapes):
            self._limit(f"an output is empty: {call.output_shapes}")
        if np.prod(call.threadgroup) > _MAX_GROUP_THREADS:
            self._limit(f"group {call.threadgroup} has more than 1024 threads")
        pairs = list(zip(call.threadgroup, call.grid, strict=True))
        group = tuple(min(size, threads) for size, threads in pairs)
        if self.language == "metal":
            return Geometry(call.grid, group, False, _METAL_GROUP_MEMORY)
        blocks = tuple(-(-threads // size) for size, threads in pairs)
        if any(b > most for b, most in zip(blocks, _MAX_CUDA_BLOCKS, strict=True)):
            self._limit(f"{blocks} blocks are more than {_MAX_CUDA_BLOCKS}")
        whole = tuple(count * size for count, size in zip(blocks, group, strict=True))
        shared = max(_CUDA_STATIC_GROUP_MEMORY, self.dynamic_bytes)
        return Geometry(whole, group, True, shared, self.dynamic_bytes)

    def _limit(self, text: str) -> None:
        raise KernelFault(self.name, "limit", text)

    def _run_schedules(
        self, text: KernelText, call: _Call, geometry: Geometry
    ) -> list[np.ndarray]:
        if text.language == "metal" and len(text.buffer_names) > _MAX_METAL_BUFFERS:
            self._limit(f"{len(text.buffer_names)} buffers are more than 31")
        options = self.host.options
        results, statistics = [], []
        for schedule in options.schedules:
            buffers = self._buffers(text, call)
            statistics.append(run(text, buffers, geometry, schedule, options))
            results.append([b.data for b in buffers if b.is_output])
        self.host.launches.append(
            LaunchRecord(
                self.name,
                self.language,
                geometry.grid,
                geometry.group,
                tuple(statistics),
            )
        )
        ordered = not any(s.float_atomics for s in statistics)
        if options.require_same_bits and ordered:
            self._require_same_bits(results)
        return results[0]

    def _require_same_bits(self, results: list[list[np.ndarray]]) -> None:
        for other in results[1:]:
            for name, a, b in zip(self.output_names, results[0], other, strict=True):
                if a.tobytes() != b.tobytes():
                    raise KernelFault(
                        self.name,
                        "schedule-dependent",
                        f"'{name}' depends on the order in which threads run",
                    )

    def _buffers(self, text: KernelText, call: _Call) -> list[HostBuffer]:
        """One buffer per pointer of the signature, in its order."""
        made = [*self._input_buffers(call), *self._output_buffers(call)]
        by_name = {buffer.name: buffer for buffer in made}
        return [by_name[name] for name in text.buffer_names]

    def _input_buffers(self, call: _Call) -> Iterator[HostBuffer]:
        lay_out = arrays.contiguous if self.is_dense else arrays.strided
        for name, array in zip(self.input_names, call.inputs, strict=True):
            data, strides = lay_out(array)
            yield HostBuffer(name, data, may_shift=True)
            for suffix, values, dtype in (
                ("_shape", array.shape, np.int32),
                ("_strides", strides, np.int64),
                ("_ndim", [array.ndim], np.int32),
            ):
                argument = np.array(values, dtype)
                if self.language == "cuda":
                    argument = cuda_text.padded(suffix, argument)
                yield HostBuffer(name + suffix, argument)

    def _output_buffers(self, call: _Call) -> Iterator[HostBuffer]:
        for name, shape, dtype in zip(
            self.output_names, call.output_shapes, call.output_dtypes, strict=True
        ):
            data = arrays.empty(shape, dtype, call.init_value)
            is_filled = call.init_value is not None
            yield HostBuffer(name, data, is_output=True, is_filled=is_filled)

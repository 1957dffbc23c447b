"""Loads a compiled kernel and runs one launch of it; mirrors runtime/host_abi.h."""

import ctypes
import functools
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.metal_host.harness.compiler import kernel_library, runtime_library
from tests.metal_host.harness.faults import KernelFault
from tests.metal_host.harness.options import HostOptions, Schedule
from tests.metal_host.harness.translate import KernelText


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("host", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("element_bytes", ctypes.c_uint32),
        ("is_output", ctypes.c_uint32),
        ("is_filled", ctypes.c_uint32),
        ("offset_bytes", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_char * 32),
        ("text", ctypes.c_char * 512),
        ("file", ctypes.c_char * 64),
        ("line", ctypes.c_uint32),
        ("has_offset", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("group", ctypes.c_uint32 * 3),
        ("buffer_count", ctypes.c_uint32),
        ("schedule", ctypes.c_uint32),
        ("full_groups", ctypes.c_uint32),
        ("allow_unwritten", ctypes.c_uint32),
        ("lanes_may_return", ctypes.c_uint32),
        ("group_memory_limit", ctypes.c_uint32),
        ("dynamic_bytes", ctypes.c_uint32),
        ("allow_unordered_atomics", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("step_budget", ctypes.c_uint64),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("fault", _Fault),
        ("steps", ctypes.c_uint64),
        ("switches", ctypes.c_uint64),
        ("float_atomics", ctypes.c_uint64),
    ]


@dataclass
class HostBuffer:
    """One kernel argument in memory.

    Attributes:
        name: Parameter name.
        data: Storage; outputs are written back into it.
        is_output: The kernel may write it.
        is_filled: An output that starts with ``init_value``.
        may_shift: An input array, whose base may be off its natural alignment.
    """

    name: str
    data: np.ndarray
    is_output: bool = False
    is_filled: bool = False
    may_shift: bool = False

    def native(self, schedule: Schedule) -> _Buffer:
        shift = schedule.input_offset * self.data.itemsize if self.may_shift else 0
        return _Buffer(
            self.data.ctypes.data,
            self.data.nbytes,
            self.data.itemsize,
            self.is_output,
            self.is_filled,
            shift,
            self.name.encode(),
        )


@dataclass(frozen=True)
class Geometry:
    """Size of a launch, counted in threads, and the limits of its groups."""

    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    full_groups: bool
    group_memory_limit: int
    dynamic_bytes: int = 0


@dataclass(frozen=True)
class RunStatistics:
    """What one run did: steps checked, fiber switches, atomic float additions."""

    steps: int
    switches: int
    float_atomics: int


# The executor is one machine per process.
_machine = threading.Lock()


@functools.cache
def _load(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


def run(
    text: KernelText,
    buffers: Sequence[HostBuffer],
    geometry: Geometry,
    schedule: Schedule,
    options: HostOptions,
) -> RunStatistics:
    """Run one launch under one schedule; outputs land in ``buffers``.

    Raises:
        CompileFault: The text does not compile.
        KernelFault: A check failed; the message names buffer, element and line.
    """
    library = kernel_library(text)
    runtime = _load(runtime_library())
    entry = ctypes.cast(_load(library).host_entry, ctypes.c_void_p)
    native = (_Buffer * len(buffers))(*(b.native(schedule) for b in buffers))
    launch = _Launch(
        entry=entry,
        grid=geometry.grid,
        group=geometry.group,
        buffer_count=len(buffers),
        schedule=int(schedule.order),
        full_groups=geometry.full_groups,
        allow_unwritten=options.allow_unwritten,
        lanes_may_return=options.lanes_may_return,
        group_memory_limit=geometry.group_memory_limit,
        dynamic_bytes=geometry.dynamic_bytes,
        allow_unordered_atomics=options.allow_unordered_atomics,
        seed=schedule.seed,
        step_budget=options.step_budget,
        buffers=native,
    )
    with _machine:
        failed = runtime.host_run(ctypes.byref(launch))
    if failed:
        raise _as_exception(text, launch.fault, library, schedule)
    return RunStatistics(launch.steps, launch.switches, launch.float_atomics)


def _as_exception(
    text: KernelText, fault: _Fault, library: Path, schedule: Schedule
) -> KernelFault:
    file, line = fault.file.decode(), fault.line
    if fault.has_offset:
        file, line = _source_position(library, fault.offset)
    part = {"source": text.source, "header": text.header}.get(file)
    where = ""
    if part is not None:
        where = f"{file} line {line}: `{part.splitlines()[line - 1].strip()}`: "
    message = f"{where}{fault.text.decode(errors='replace')}"
    message += f" ({schedule.order.name.lower()} schedule"
    message += ", inputs offset by one element)" if schedule.input_offset else ")"
    known_line = line if part is not None else None
    return KernelFault(text.name, fault.kind.decode(), message, line=known_line)


def _source_position(library: Path, offset: int) -> tuple[str, int]:
    """Innermost frame at a code address that lies in the kernel's own text."""
    command = ["addr2line", "-i", "-e", str(library), hex(offset)]
    frames = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
    for frame in frames:
        path, _, line = frame.partition(" ")[0].rpartition(":")
        if path.rpartition("/")[2] in ("source", "header"):
            return path.rpartition("/")[2], int(line)
    return "", 0

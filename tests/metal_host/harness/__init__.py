"""Kernel text executed on the CPU: checked fibers in place of a GPU.

``KernelHost`` offers objects with the call signature of ``mx.fast.metal_kernel`` and
``mx.fast.cuda_kernel``. What that shows, and what it cannot, is in the README beside
this folder.
"""

from tests.metal_host.harness.compiler import missing_requirement
from tests.metal_host.harness.faults import CompileFault, KernelFault, LintFault
from tests.metal_host.harness.host import KernelHost, LaunchRecord
from tests.metal_host.harness.metal_text import RecordedKernel, recorded_kernels
from tests.metal_host.harness.options import (
    ALL_SCHEDULES,
    FORWARD,
    RANDOM,
    REVERSE,
    HostOptions,
    Schedule,
)

__all__ = [
    "ALL_SCHEDULES",
    "FORWARD",
    "RANDOM",
    "REVERSE",
    "CompileFault",
    "HostOptions",
    "KernelFault",
    "KernelHost",
    "LaunchRecord",
    "LintFault",
    "RecordedKernel",
    "Schedule",
    "missing_requirement",
    "recorded_kernels",
]

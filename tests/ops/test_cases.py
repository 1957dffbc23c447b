"""The cases of the doctor's check hold for the GPU kernels, run as there."""

import itertools

import mlx.core as mx
import pytest

from energyflow_mlx.ops import _backend, cases
from energyflow_mlx.runtime.kernel_check import on_cpu, relative_errors

WITH_KERNELS = [
    *("masked_mean", "causal_im2col", "gelu", "gru_blend", "embedding"),
    *("linear_cross_entropy", "layer_norm", "lattice", "field"),
]
MOST = 3  # the emulated kernels run a thread at a time


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=cases.short)
@pytest.mark.parametrize("op", WITH_KERNELS)
def test_kernels_agree_on_the_cases(gpu_backend, op, dtype):
    small = (c for c in cases.CASES[op]([dtype]) if not c.is_large)
    chosen = list(itertools.islice((c for c in small if c.dtype == dtype), MOST))
    assert chosen
    for case in chosen:
        actual = case.call(gpu_backend)
        mx.eval(actual)
        error = relative_errors(actual, on_cpu(case.call))
        assert error <= case.tolerance, case.name


def test_operations_with_kernels_are_those_that_auto_takes_on_a_gpu():
    of_gpus = {op for op, forms in _backend._AUTO.items() if forms["metal"] == "metal"}
    listed = {c.op for op in WITH_KERNELS for c in cases.CASES[op]([mx.float32])}
    assert listed == of_gpus

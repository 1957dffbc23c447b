"""Sound kernels pass on the host, with right values, in every dtype and shape."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_host.harness import (
    FORWARD,
    RANDOM,
    REVERSE,
    HostOptions,
    KernelHost,
    recorded_kernels,
)
from tests.metal_host.samples import (
    CUDA_SCATTER,
    SAMPLES,
    SCATTER,
    as_numpy,
    row_sum,
    scatter,
    values,
)

ELEMENTWISE = """
const uint i = thread_position_in_grid.x;
out[i] = static_cast<T>(left[i] + right[i]);
"""
CUDA_ELEMENTWISE = """
const size_t i = cooperative_groups::this_grid().thread_rank();
if (i >= N) return;
out[i] = static_cast<T>(static_cast<float>(left[i]) + static_cast<float>(right[i]));
"""
INTEGERS = [mx.uint8, mx.int8, mx.uint16, mx.int16, mx.uint32, mx.int32, mx.int64]
FLOATS = [mx.float32, mx.float16, mx.bfloat16]


def add(host: KernelHost, left: mx.array, right: mx.array, **options) -> mx.array:
    kernel = host.metal_kernel(
        "add", ["left", "right"], ["out"], options.pop("source", ELEMENTWISE)
    )
    [total] = kernel(
        inputs=[left, right],
        output_shapes=[left.shape],
        output_dtypes=[left.dtype],
        grid=(left.size, 1, 1),
        threadgroup=(64, 1, 1),
        template=[("T", left.dtype)],
        **options,
    )
    return total


@pytest.mark.parametrize("name", SAMPLES)
def test_sound_sample_passes(host: KernelHost, name: str) -> None:
    SAMPLES[name].check(host)
    assert len(host.launches) == 1
    assert len(host.launches[0].statistics) == 3


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=str)
def test_dtypes_reach_the_kernel_and_come_back(host: KernelHost, dtype) -> None:
    left = mx.arange(100).astype(dtype)
    total = add(host, left, left)
    assert total.dtype == dtype
    assert mx.array_equal(total, left + left)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_cuda_half_types_round_to_nearest_even(host: KernelHost, dtype) -> None:
    left, right = values(1000, dtype=dtype), values(1000, dtype=dtype, seed=8)
    kernel = host.cuda_kernel("add", ["left", "right"], ["out"], CUDA_ELEMENTWISE)
    [total] = kernel(
        inputs=[left, right],
        output_shapes=[(1000,)],
        output_dtypes=[dtype],
        grid=(1000, 1, 1),
        threadgroup=(256, 1, 1),
        template=[("T", dtype), ("N", 1000)],
    )
    wide = left.astype(mx.float32) + right.astype(mx.float32)
    assert mx.array_equal(total, wide.astype(dtype))


def test_bool_inputs_and_outputs(host: KernelHost) -> None:
    flags = mx.array([True, False, True] * 5)
    kernel = host.metal_kernel(
        "negate",
        ["flags"],
        ["negated"],
        "uint i = thread_position_in_grid.x; negated[i] = !flags[i];",
    )
    [negated] = kernel(
        inputs=[flags],
        output_shapes=[(15,)],
        output_dtypes=[mx.bool_],
        grid=(15, 1, 1),
        threadgroup=(32, 1, 1),
    )
    assert mx.array_equal(negated, mx.logical_not(flags))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 31), (3, 32), (5, 33), (9, 129)])
def test_row_sum_off_the_simd_width(host: KernelHost, shape, dtype) -> None:
    table = values(*shape, dtype=dtype)
    tolerance = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}[dtype]
    np.testing.assert_allclose(
        as_numpy(row_sum(host, table)),
        as_numpy(table).sum(1),
        rtol=tolerance,
        atol=tolerance,
    )


def test_half_is_rounded_after_every_operation(host: KernelHost) -> None:
    """2048 + 1 + 1 is 2048 in half precision, and 2050 if kept in float between."""
    source = (
        "uint i = thread_position_in_grid.x; out[i] = left[i] + right[i] + right[i];"
    )
    left, right = mx.full((9,), 2048, mx.float16), mx.full((9,), 1, mx.float16)
    assert add(host, left, right, source=source)[0].item() == 2048


def test_products_are_not_fused_with_sums(host: KernelHost) -> None:
    source = (
        "uint i = thread_position_in_grid.x; out[i] = left[i] * left[i] + right[i];"
    )
    left = mx.full((9,), 1 + 2**-12)
    square = left * left
    mx.eval(square)
    assert add(host, left, -square, source=source)[0].item() == 0.0


def test_float_literals_are_single_precision(host: KernelHost) -> None:
    source = "uint i = thread_position_in_grid.x; out[i] = left[i] + 0.1 + right[i];"
    left, right = mx.full((9,), 16777216.0), mx.zeros((9,))
    assert add(host, left, right, source=source)[0].item() == 16777216.0


def test_strided_views_are_made_dense_by_default(host: KernelHost) -> None:
    left = values(40)[3::2]
    assert mx.array_equal(add(host, left, left), left + left)


def test_strided_views_keep_their_strides_on_request(host: KernelHost) -> None:
    source = """
    const uint i = thread_position_in_grid.x;
    out[i] = table[elem_to_loc(i, table_shape, table_strides, table_ndim)];
    """
    table = values(6, 8)[::2].T
    kernel = host.metal_kernel(
        "gather", ["table"], ["out"], source, ensure_row_contiguous=False
    )
    [dense] = kernel(
        inputs=[table],
        output_shapes=[table.shape],
        output_dtypes=[mx.float32],
        grid=(table.size, 1, 1),
        threadgroup=(8, 1, 1),
    )
    assert mx.array_equal(dense, table)


def test_scalar_inputs_are_references(host: KernelHost) -> None:
    source = "uint i = thread_position_in_grid.x; out[i] = left[i] * right;"
    left = values(12)
    assert mx.array_equal(add(host, left, mx.array(3.0), source=source), left * 3)


def test_init_value_fills_outputs(host: KernelHost) -> None:
    source = "uint i = thread_position_in_grid.x; if (i == 2) out[i] = left[i];"
    total = add(host, values(9), values(9), source=source, init_value=-1)
    assert total[0].item() == -1
    assert total[2].item() == values(9)[2].item()


def test_atomic_sums_depend_on_the_schedule_and_are_exempt(host: KernelHost) -> None:
    results = set()
    for schedule in (FORWARD, REVERSE, RANDOM):
        host.options = HostOptions(schedules=(schedule,))
        results.add(scatter(host, SCATTER).tobytes())
    assert len(results) > 1
    assert all(launch.statistics[0].float_atomics for launch in host.launches)


def test_edge_groups_are_cut_on_metal_and_full_on_cuda(host: KernelHost) -> None:
    scatter(host, SCATTER)
    scatter(host, CUDA_SCATTER, "cuda")
    metal, cuda = host.launches
    assert metal.grid == (300, 1, 1)
    assert cuda.grid == (384, 1, 1)


def test_threads_per_threadgroup_is_the_actual_size(host: KernelHost) -> None:
    source = """
    out[thread_position_in_grid.x] = threads_per_threadgroup.x * 1000
        + dispatch_threads_per_threadgroup.x;
    """
    sizes = add(host, mx.zeros((70,), mx.int32), mx.zeros((70,)), source=source)
    assert sizes[0].item() == 64064
    assert sizes[69].item() == 6064


def test_host_kernels_work_under_grad_and_checkpoint(host: KernelHost) -> None:
    @mx.custom_function
    def square(x: mx.array) -> mx.array:
        return add(
            host, x, x, source=ELEMENTWISE.replace("+", "*").replace("right", "left")
        )

    @square.vjp
    def square_vjp(primals, cotangents, outputs):
        return add(host, 2 * primals, cotangents, source=ELEMENTWISE.replace("+", "*"))

    source = values(10)
    for function in (square, mx.checkpoint(square)):
        gradient = mx.grad(lambda x, f=function: f(x).sum())(source)
        assert mx.allclose(gradient, 2 * source)


def test_tracing_is_refused_with_advice(host: KernelHost) -> None:
    with pytest.raises(RuntimeError, match="mx.disable_compile"):
        mx.compile(lambda x: add(host, x, x))(values(10))


def test_recorded_kernels_lists_the_launches_of_a_compiled_function() -> None:
    kernel = mx.fast.metal_kernel("add", ["left", "right"], ["out"], ELEMENTWISE)

    def twice(x: mx.array) -> mx.array:
        call = {"output_shapes": [x.shape], "output_dtypes": [x.dtype]}
        sizes = {"grid": (x.size, 1, 1), "threadgroup": (64, 1, 1)}
        template = [("T", x.dtype)]
        [y] = kernel(inputs=[x, x], template=template, **call, **sizes)
        [z] = kernel(inputs=[y, x], template=template, **call, **sizes)
        return z

    records = recorded_kernels(mx.compile(twice), mx.zeros((10, 3)))
    assert [r.grid for r in records] == [(30, 1, 1)] * 2
    assert all("add" in r.name for r in records)

"""Small sound kernels, and how to run and judge them; tests break them on purpose."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from tests.metal_host.harness import KernelHost

GROUP = 128

# One group adds up a slice of `values`: a tree in threadgroup memory.
TREE_SUM = """
threadgroup float partial[N];
const uint me = thread_index_in_threadgroup;
float sum = 0.0f;
for (uint i = thread_position_in_grid.x; i < (uint)values_shape[0];
     i += threads_per_grid.x) {
  sum += static_cast<float>(values[i]);
}
partial[me] = sum;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint half_size = N / 2; half_size > 0; half_size /= 2) {
  if (me < half_size) {
    partial[me] += partial[me + half_size];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
if (me == 0) {
  total[threadgroup_position_in_grid.x] = partial[0];
}
"""

# One simdgroup a row: lanes stride over it and add up by simd_sum.
ROW_SUM = """
const uint row = threadgroup_position_in_grid.x * simdgroups_per_threadgroup +
                 simdgroup_index_in_threadgroup;
const int rows = table_shape[0];
const int columns = table_shape[1];
if (row < uint(rows)) {
  float sum = 0.0f;
  for (int c = int(thread_index_in_simdgroup); c < columns; c += 32) {
    sum += static_cast<float>(table[row * columns + c]);
  }
  sum = simd_sum(sum);
  if (thread_index_in_simdgroup == 0) {
    sums[row] = static_cast<T>(sum);
  }
}
"""

# Order-dependent on purpose: floats added atomically.
SCATTER = """
const uint i = thread_position_in_grid.x;
atomic_fetch_add_explicit(&bins[cell[i]], weight[i], memory_order_relaxed);
"""

# A simdgroup turns its 32 values round through threadgroup memory.
REVERSE_LANES = """
threadgroup float lanes[2][32];
const uint lane = thread_index_in_simdgroup;
lanes[simdgroup_index_in_threadgroup][lane] = values[thread_position_in_grid.x];
simdgroup_barrier(mem_flags::mem_threadgroup);
turned[thread_position_in_grid.x] = lanes[simdgroup_index_in_threadgroup][31 - lane];
"""

CUDA_TREE_SUM = """
__shared__ float partial[N];
const int me = threadIdx.x;
float sum = 0.0f;
for (int i = blockIdx.x * N + me; i < values_shape[0]; i += gridDim.x * N) {
  sum += static_cast<float>(values[i]);
}
partial[me] = sum;
__syncthreads();
for (int half_size = N / 2; half_size >= 32; half_size /= 2) {
  if (me < half_size) {
    partial[me] += partial[me + half_size];
  }
  __syncthreads();
}
if (me < 32) {
  float s = partial[me];
  for (int step = 16; step > 0; step /= 2) {
    s += __shfl_down_sync(0xffffffff, s, step);
  }
  if (me == 0) {
    total[blockIdx.x] = s;
  }
}
"""

CUDA_SCATTER = """
const auto i = cooperative_groups::this_grid().thread_rank();
if (i >= cell_shape[0]) return;
atomicAdd(&bins[cell[i]], weight[i]);
"""


@dataclass(frozen=True)
class Sample:
    """A kernel text, and a function that runs any text like it and checks values."""

    source: str
    run: Callable[[KernelHost, str], None]

    def check(self, host: KernelHost) -> None:
        self.run(host, self.source)

    def check_with(self, host: KernelHost, old: str, new: str) -> None:
        """Run with a planted change."""
        assert self.source.count(old) >= 1, old
        self.run(host, self.source.replace(old, new))


def values(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 7) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def as_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def _run_tree_sum(host: KernelHost, source: str, language: str = "metal") -> None:
    x = values(1000)
    build = host.metal_kernel if language == "metal" else host.cuda_kernel
    kernel = build("tree_sum", ["values"], ["total"], source)
    [total] = kernel(
        inputs=[x],
        output_shapes=[(3,)],
        output_dtypes=[mx.float32],
        grid=(3 * GROUP, 1, 1),
        threadgroup=(GROUP, 1, 1),
        template=[("N", GROUP)],
    )
    np.testing.assert_allclose(total.sum().item(), as_numpy(x).sum(), rtol=1e-4)


def row_sum(
    host: KernelHost, table: mx.array, source: str = ROW_SUM, simdgroups: int = 2
) -> mx.array:
    kernel = host.metal_kernel("row_sum", ["table"], ["sums"], source)
    rows = table.shape[0]
    groups = -(-rows // simdgroups)
    [sums] = kernel(
        inputs=[table],
        output_shapes=[(rows,)],
        output_dtypes=[table.dtype],
        grid=(groups * 32 * simdgroups, 1, 1),
        threadgroup=(32 * simdgroups, 1, 1),
        template=[("T", table.dtype)],
    )
    return sums


def _run_row_sum(host: KernelHost, source: str) -> None:
    table = values(3, 37)
    sums = row_sum(host, table, source)
    np.testing.assert_allclose(as_numpy(sums), as_numpy(table).sum(1), rtol=1e-4)


def scatter(
    host: KernelHost,
    source: str,
    language: str = "metal",
    init_value: float | None = 0,
) -> np.ndarray:
    """Sum of 300 weights in 5 bins; 300 is no multiple of the group."""
    cell = mx.arange(300) * 7 % 5
    if language == "metal":
        names = ("scatter", ["cell", "weight"], ["bins"])
        kernel = host.metal_kernel(*names, source, atomic_outputs=True)
    else:
        kernel = host.cuda_kernel("scatter", ["cell", "weight"], ["bins"], source)
    weight = values(300)
    [bins] = kernel(
        inputs=[cell.astype(mx.int32), weight],
        output_shapes=[(5,)],
        output_dtypes=[mx.float32],
        grid=(300, 1, 1),
        threadgroup=(GROUP, 1, 1),
        init_value=init_value,
    )
    wanted = np.bincount(np.array(cell), as_numpy(weight), 5)
    np.testing.assert_allclose(as_numpy(bins), wanted, rtol=1e-4, atol=1e-4)
    return as_numpy(bins)


def _run_reverse_lanes(host: KernelHost, source: str) -> None:
    x = values(128)
    kernel = host.metal_kernel("reverse_lanes", ["values"], ["turned"], source)
    [turned] = kernel(
        inputs=[x],
        output_shapes=[(128,)],
        output_dtypes=[mx.float32],
        grid=(128, 1, 1),
        threadgroup=(64, 1, 1),
    )
    wanted = as_numpy(x).reshape(-1, 32)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(as_numpy(turned), wanted)


SAMPLES = {
    "tree_sum": Sample(TREE_SUM, _run_tree_sum),
    "row_sum": Sample(ROW_SUM, _run_row_sum),
    "scatter": Sample(SCATTER, lambda host, text: scatter(host, text)),
    "reverse_lanes": Sample(REVERSE_LANES, _run_reverse_lanes),
    "cuda_tree_sum": Sample(
        CUDA_TREE_SUM, lambda host, text: _run_tree_sum(host, text, "cuda")
    ),
    "cuda_scatter": Sample(
        CUDA_SCATTER, lambda host, text: scatter(host, text, "cuda")
    ),
}

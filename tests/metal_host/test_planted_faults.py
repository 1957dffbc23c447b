"""Every class of mistake, planted into a sound kernel, is caught and located."""

from dataclasses import dataclass

import pytest

from tests.metal_host.harness import HostOptions, KernelFault, KernelHost
from tests.metal_host.samples import SAMPLES, scatter


@dataclass(frozen=True)
class Planted:
    """One change to one sample, and what the host must say about it."""

    sample: str
    old: str
    new: str
    kind: str
    says: tuple[str, ...]
    at: str = ""  # text of the source line that is blamed

    @property
    def id(self) -> str:
        return (
            f"{self.sample}-{self.kind}-{self.new.split()[0] if self.new else 'drop'}"
        )


TREE_BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\nfor"
LOOP_BARRIER = "  }\n  threadgroup_barrier(mem_flags::mem_threadgroup);\n}"
FAULTS = [
    # Barriers.
    Planted("tree_sum", TREE_BARRIER, "for", "uninitialised-read", ("partial",)),
    Planted("tree_sum", LOOP_BARRIER, "  }\n}", "data-race", ("partial",)),
    Planted("tree_sum", "mem_threadgroup", "mem_none", "data-race", ("partial",)),
    Planted("tree_sum", "mem_threadgroup", "mem_device", "data-race", ("partial",)),
    Planted(
        "tree_sum",
        "  }\n  threadgroup_barrier(mem_flags::mem_threadgroup);",
        "  threadgroup_barrier(mem_flags::mem_threadgroup);\n  }",
        "divergence",
        ("64 of 128 threads",),
    ),
    Planted(
        "tree_sum",
        "partial[me] = sum;",
        "partial[me] = sum; if (me > 9) return;",
        "divergence",
        ("barrier reached by 10 of 128", "118 returned"),
    ),
    Planted("reverse_lanes", "mem_threadgroup", "mem_device", "data-race", ("lanes",)),
    Planted(
        "reverse_lanes",
        "simdgroup_barrier(mem_flags::mem_threadgroup);\n",
        "",
        "uninitialised-read",
        ("lanes",),
    ),
    Planted("cuda_tree_sum", "__syncthreads();\nfor", "for", "uninitialised-read", ()),
    Planted("cuda_tree_sum", "}\n  __syncthreads();", "}", "data-race", ("partial",)),
    # Bounds and strides.
    Planted(
        "tree_sum",
        "i < (uint)values_shape[0]",
        "i <= (uint)values_shape[0]",
        "out-of-bounds",
        ("read of 4 bytes at element 1000 of 'values' (size 1000)",),
        "sum += static_cast<float>(values[i]);",
    ),
    Planted(
        "tree_sum",
        "me + half_size]",
        "me + half_size + 1]",
        "out-of-bounds",
        ("index 128",),
    ),
    Planted("row_sum", "row * columns", "row * rows", "wrong-values", ()),
    Planted(
        "row_sum", "row < uint(rows)", "row <= uint(rows)", "out-of-bounds", ("table",)
    ),
    Planted(
        "row_sum",
        "[row * columns + c]",
        "[int(row * columns) + c - 1]",
        "out-of-bounds",
        ("element -1 of 'table' (size 111)",),
    ),
    Planted(
        "scatter", "bins[cell[i]]", "bins[cell[i] + 1]", "out-of-bounds", ("bins",)
    ),
    Planted(
        "cuda_scatter",
        "if (i >= cell_shape[0]) return;",
        "",
        "out-of-bounds",
        ("element 300 of 'weight' (size 300)", "thread (300,0,0) of the grid"),
    ),
    Planted("cuda_scatter", "i >= cell_shape", "i > cell_shape", "out-of-bounds", ()),
    # Outputs.
    Planted(
        "tree_sum",
        "total[threadgroup_position_in_grid.x]",
        "total[0 * threadgroup_position_in_grid.x]",
        "data-race",
        ("element 0 of 'total'",),
    ),
    Planted(
        "row_sum",
        "sums[row] =",
        "if (row != 1) sums[row] =",
        "unwritten-output",
        ("1 of 3 elements of 'sums'", "first is 1"),
    ),
    Planted(
        "row_sum",
        "if (thread_index_in_simdgroup == 0) {",
        "{",
        "data-race",
        ("write of element 0 of 'sums'",),
    ),
    # Simdgroups.
    Planted(
        "row_sum",
        "sum = simd_sum(sum);",
        "if (thread_index_in_simdgroup < 16) sum = simd_sum(sum);",
        "divergence",
        ("simd_sum is reached by 16 of 32 lanes",),
    ),
    Planted(
        "row_sum",
        "sum = simd_sum(sum);",
        "if (thread_index_in_simdgroup > 7) return; sum = simd_sum(sum);",
        "divergence",
        ("simd_sum is reached by 8 of 32 lanes",),
    ),
    Planted("row_sum", "sum = simd_sum(sum);", "", "wrong-values", ()),
    # Atomics.
    Planted(
        "scatter",
        "atomic_fetch_add_explicit(&bins[cell[i]], weight[i], memory_order_relaxed);",
        "((device float*)bins)[cell[i]] += weight[i];",
        "data-race",
        ("'bins'",),
    ),
    Planted(
        "scatter",
        "atomic_fetch_add_explicit(&bins[cell[i]], weight[i], memory_order_relaxed);",
        "atomic_store_explicit(&bins[cell[i]], weight[i] + atomic_load_explicit("
        "&bins[cell[i]], memory_order_relaxed), memory_order_relaxed);",
        "data-race",
        ("element 0 of 'bins' conflicts with an unordered write",),
    ),
    Planted(
        "cuda_scatter",
        "atomicAdd(&bins[cell[i]], weight[i])",
        "bins[cell[i]] += weight[i]",
        "data-race",
        ("'bins'",),
    ),
    # Endless loops, with and without memory accesses.
    Planted(
        "tree_sum", "i += threads_per_grid.x", "i += 0", "endless-loop", ("steps",)
    ),
    Planted(
        "row_sum", "if (row <", "while (row < 1) {}\nif (row <", "endless-loop", ()
    ),
    # Variables without a value.
    Planted("row_sum", "float sum = 0.0f;", "float sum;", "wrong-values", ()),
    Planted(
        "row_sum",
        "sum += static_cast<float>(table[row * columns + c]);",
        "float x; if (c < 36) x = table[row * columns + c]; sum += x;",
        "wrong-values",
        (),
    ),
    # Undefined arithmetic.
    Planted(
        "row_sum",
        "int columns = table_shape[1];",
        "int columns = table_shape[1] + (2147483647 / rows * rows);",
        "undefined-behaviour",
        ("signed addition overflows",),
    ),
    Planted(
        "row_sum",
        "static_cast<T>(sum)",
        "T(int(sum / 0.0f))",
        "undefined-behaviour",
        ("float is out of range of the integer type",),
    ),
    Planted(
        "row_sum",
        "sums[row] =",
        "sums[row / (rows - rows)] =",
        "undefined-behaviour",
        ("division by zero",),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_planted_fault_is_caught(host: KernelHost, fault: Planted) -> None:
    sample = SAMPLES[fault.sample]
    host.options = HostOptions(step_budget=2_000_000)
    expected = AssertionError if fault.kind == "wrong-values" else KernelFault
    with pytest.raises(expected) as caught:
        sample.check_with(host, fault.old, fault.new)
    message = str(caught.value)
    if fault.kind == "wrong-values":
        assert not isinstance(caught.value, KernelFault), message
        return
    assert caught.value.kind == fault.kind, message
    for words in fault.says:
        assert words in message


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.at], ids=lambda f: f.id)
def test_message_names_the_source_line(host: KernelHost, fault: Planted) -> None:
    sample = SAMPLES[fault.sample]
    with pytest.raises(KernelFault) as caught:
        sample.check_with(host, fault.old, fault.new)
    assert fault.at in str(caught.value)
    lines = sample.source.replace(fault.old, fault.new).splitlines()
    assert lines[caught.value.line - 1].strip() == fault.at


def test_missing_init_value_is_an_uninitialised_read(host: KernelHost) -> None:
    with pytest.raises(KernelFault, match="of 'bins' is read before any write"):
        scatter(host, SAMPLES["scatter"].source, init_value=None)

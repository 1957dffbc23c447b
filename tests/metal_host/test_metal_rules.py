"""MLX's and Metal's rules about names, signatures, sizes and alignment hold here."""

import mlx.core as mx
import pytest

from tests.metal_host.harness import (
    CompileFault,
    HostOptions,
    KernelFault,
    KernelHost,
    LintFault,
)


def launch(
    host: KernelHost,
    source: str,
    inputs: dict[str, mx.array] | None = None,
    *,
    outputs: tuple[str, ...] = ("out",),
    header: str = "",
    name: str = "rule",
    **call,
) -> list[mx.array]:
    """Run a Metal text on a grid of 16 threads, all options open to the test."""
    inputs = {"data": mx.arange(16).astype(mx.float32)} if inputs is None else inputs
    atomic = call.pop("atomic_outputs", False)
    kernel = host.metal_kernel(
        name, list(inputs), list(outputs), source, header, atomic_outputs=atomic
    )
    call = {
        "output_shapes": [(16,)] * len(outputs),
        "output_dtypes": [mx.float32] * len(outputs),
        "grid": (16, 1, 1),
        "threadgroup": (16, 1, 1),
    } | call
    return kernel(inputs=list(inputs.values()), **call)


COPY = "out[thread_position_in_grid.x] = data[thread_position_in_grid.x];"


def test_kernel_name_must_be_an_identifier(host: KernelHost) -> None:
    with pytest.raises(CompileFault, match="letters, digits and _"):
        launch(host, COPY, name="masked-mean")


def test_two_outputs_with_a_shape_need_an_attribute(host: KernelHost) -> None:
    source = "out[0] = data_shape[0]; other[0] = 1.0f;"
    with pytest.raises(CompileFault, match="needs an attribute"):
        launch(host, source, outputs=("out", "other"))


def test_attribute_named_by_accident_is_refused(host: KernelHost) -> None:
    with pytest.raises(CompileFault, match=r"grid_size.*comments included"):
        launch(host, COPY + "// grid_size is not used")


def test_scalar_input_cannot_be_indexed(host: KernelHost) -> None:
    inputs = {"eps": mx.array(1.0)}
    with pytest.raises(CompileFault, match="array subscript"):
        launch(host, "out[thread_position_in_grid.x] = eps[0];", inputs)


def test_narrowing_to_bfloat_needs_a_cast(host: KernelHost) -> None:
    source = "out[thread_position_in_grid.x] = data[thread_position_in_grid.x] * 2.0f;"
    call = {"output_dtypes": [mx.bfloat16]}
    with pytest.raises(CompileFault, match="bfloat"):
        launch(host, source, **call)
    launch(
        host,
        source.replace("data[", "T(data[")
        .replace("x] *", "x]) *")
        .replace("2.0f", "T(2.0f)"),
        template=[("T", mx.bfloat16)],
        **call,
    )


def test_min_of_int_and_uint_is_ambiguous(host: KernelHost) -> None:
    source = "out[thread_position_in_grid.x] = min(3, thread_position_in_grid.x);"
    with pytest.raises(CompileFault, match="min"):
        launch(host, source)


def test_atomic_outputs_have_no_plain_assignment(host: KernelHost) -> None:
    with pytest.raises(CompileFault, match="atomic"):
        launch(host, COPY, atomic_outputs=True)


def test_half_atomics_do_not_exist(host: KernelHost) -> None:
    source = "atomic_store_explicit(&out[thread_position_in_grid.x], half(0), "
    source += "memory_order_relaxed);"
    with pytest.raises(CompileFault, match="no atomic of this type"):
        launch(host, source, atomic_outputs=True, output_dtypes=[mx.float16])


def test_float_atomics_do_not_exist_in_threadgroup_memory(host: KernelHost) -> None:
    source = """
    threadgroup atomic_float sum[1];
    if (thread_index_in_threadgroup == 0)
      atomic_store_explicit(&sum[0], 0.0f, memory_order_relaxed);
    out[thread_position_in_grid.x] = 0.0f;
    """
    with pytest.raises(KernelFault, match="device memory only") as caught:
        launch(host, source)
    assert caught.value.line == 4
    launch(
        host, source.replace("float sum", "uint sum").replace("[0], 0.0f", "[0], 0u")
    )


def test_int_atomics_count_in_threadgroup_memory(host: KernelHost) -> None:
    source = """
    threadgroup atomic_int count[1];
    const uint me = thread_position_in_grid.x;
    if (me == 0) atomic_store_explicit(&count[0], 0, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&count[0], int(me), memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[me] = float(atomic_load_explicit(&count[0], memory_order_relaxed));
    """
    assert launch(host, source)[0].tolist() == [120.0] * 16


def test_threadgroup_memory_is_limited_to_32_kilobytes(host: KernelHost) -> None:
    source = "threadgroup float big[N]; big[0] = 0.0f; " + COPY
    sized = [("N", 8193)]
    with pytest.raises(KernelFault, match="32784 bytes, the limit is 32768"):
        launch(host, source, template=sized)


@pytest.mark.parametrize("kind", ["uint", "unsigned int", "metal::packed_float2"])
def test_threadgroup_variables_of_any_type_are_shared(host: KernelHost, kind) -> None:
    source = f"""
    threadgroup {kind} first[1], all[2][16];
    const uint me = thread_position_in_grid.x;
    if (me == 7) first[0] = {kind.rpartition(" ")[2]}(5);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    all[1][me] = first[0];
    out[me] = as_type<uint>(all[1][me]FIELD) == as_type<uint>(FIVE) ? 1.0f : 0.0f;
    """
    packed = "packed" in kind
    source = source.replace("FIELD", "[0]" if packed else "")
    source = source.replace("FIVE", "5.0f" if packed else "5")
    assert launch(host, source)[0].tolist() == [1.0] * 16


def test_threadgroup_declaration_must_be_understood(host: KernelHost) -> None:
    source = "threadgroup alignas(16) float x[4]; x[0] = 0.0f; " + COPY
    with pytest.raises(CompileFault, match="no declaration known here"):
        launch(host, source)


def test_load_then_store_loses_updates(host: KernelHost) -> None:
    """Integer sums have no order: only a stop between load and store shows it."""
    source = """
    atomic_store_explicit(&out[0], 1 + atomic_load_explicit(&out[0],
        memory_order_relaxed), memory_order_relaxed);
    """
    call = {"output_shapes": [(1,)], "output_dtypes": [mx.int32], "init_value": 0}
    source += "data; thread_position_in_grid;"
    with pytest.raises(KernelFault, match="unordered write by thread"):
        launch(host, source, atomic_outputs=True, **call)
    host.options = HostOptions(allow_unordered_atomics=True)
    with pytest.raises(KernelFault, match="depends on the order"):
        launch(host, source, atomic_outputs=True, **call)
    added = "atomic_fetch_add_explicit(&out[0], 1, memory_order_relaxed);"
    assert launch(host, added, atomic_outputs=True, **call)[0].item() == 16


MAXIMUM = """
threadgroup atomic_int top[1];
const uint me = thread_position_in_grid.x;
if (me == 0) atomic_store_explicit(&top[0], 0, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
atomic_fetch_max_explicit(&top[0], int(data[me]), memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
out[me] = float(atomic_load_explicit(&top[0], memory_order_relaxed));
"""


def test_atomics_are_ordered_by_barriers(host: KernelHost) -> None:
    assert launch(host, MAXIMUM)[0].tolist() == [15.0] * 16
    before, barrier, after = MAXIMUM.partition(
        "threadgroup_barrier(mem_flags::mem_threadgroup);"
    )
    with pytest.raises(KernelFault, match="write of element 0 of 'top'"):
        launch(host, before + barrier.replace("mem_threadgroup", "mem_none") + after)
    before, barrier, after = MAXIMUM.rpartition(
        "threadgroup_barrier(mem_flags::mem_threadgroup);"
    )
    with pytest.raises(KernelFault, match="unordered read by thread 0"):
        launch(host, before + after)


@pytest.mark.parametrize("memory", ["device", "threadgroup"])
def test_barrier_orders_only_the_memory_it_names(host: KernelHost, memory) -> None:
    source = """
    const uint me = thread_position_in_grid.x;
    out[me] = data[me];
    threadgroup_barrier(mem_flags::mem_device);
    const float next = out[(me + 1) % 16];
    threadgroup_barrier(mem_flags::mem_device);
    out[me] = next;
    """.replace("mem_device", f"mem_{memory}")
    if memory == "device":
        assert launch(host, source)[0].tolist() == [*range(1, 16), 0]
        return
    with pytest.raises(KernelFault, match="element 1 of 'out' conflicts") as caught:
        launch(host, source)
    assert caught.value.kind in ("data-race", "uninitialised-read")


def test_barriers_do_not_order_groups(host: KernelHost) -> None:
    source = """
    const uint me = thread_position_in_grid.x;
    out[me] = data[me];
    threadgroup_barrier(mem_flags::mem_device);
    if (me == 8) out[0] = out[1];
    """
    launch(host, source, threadgroup=(16, 1, 1))
    with pytest.raises(KernelFault, match="by thread 1 of group 0"):
        launch(host, source, threadgroup=(8, 1, 1))


def test_group_is_limited_to_1024_threads(host: KernelHost) -> None:
    with pytest.raises(KernelFault, match="more than 1024 threads"):
        launch(host, COPY, grid=(2048, 1, 1), threadgroup=(1025, 1, 1))


def test_buffers_are_limited_to_31(host: KernelHost) -> None:
    inputs = {f"in{i:02}": mx.zeros((8,)) for i in range(31)}
    source = "out[thread_position_in_grid.x] = in00[0];"
    with pytest.raises(KernelFault, match="32 buffers are more than 31"):
        launch(host, source, inputs)


@pytest.mark.parametrize("call", [{"grid": (0, 1, 1)}, {"output_shapes": [(0,)]}])
def test_empty_launch_is_refused(host: KernelHost, call) -> None:
    with pytest.raises(KernelFault, match="empty"):
        launch(host, COPY, **call)


def test_writing_an_input_is_refused(host: KernelHost) -> None:
    with pytest.raises(CompileFault, match="read-only"):
        launch(host, "data[0] = 1.0f; " + COPY)


LOAD_FOUR = """
inline float4 load4(const device {0}* p) {{ return float4(*(const device {1}*)p); }}
inline float4 load4(const constant {0}* p) {{ return float4(*(const constant {1}*)p); }}
"""
DOUBLED_FOURS = """
const uint i = thread_position_in_grid.x;
const float4 four = load4(data + 4 * i) * 2.0f;
for (int j = 0; j < 4; ++j) out[4 * i + j] = four[j];
"""


def test_aligned_vector_load_breaks_on_an_offset_view(host: KernelHost) -> None:
    """A slice keeps its offset: only the element's own alignment can be relied on."""
    header = LOAD_FOUR.format("float", "float4")
    with pytest.raises(
        KernelFault, match="misaligned.*offset by one element"
    ) as caught:
        launch(host, DOUBLED_FOURS, header=header, grid=(4, 1, 1))
    assert caught.value.kind == "undefined-behaviour"


def test_packed_vector_load_takes_any_offset(host: KernelHost) -> None:
    header = LOAD_FOUR.format("float", "packed_float4")
    [out] = launch(host, DOUBLED_FOURS, header=header, grid=(4, 1, 1))
    assert out.tolist() == [2.0 * i for i in range(16)]


def test_shuffle_from_beyond_the_simdgroup_is_not_a_number(host: KernelHost) -> None:
    source = """
    const float x = data[thread_position_in_grid.x];
    out[thread_position_in_grid.x] = simd_shuffle_down(x, 1);
    """
    [out] = launch(
        host,
        source,
        {"data": mx.ones((32,))},
        grid=(32, 1, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[(32,)],
    )
    assert out[:31].tolist() == [1.0] * 31
    assert mx.isnan(out[31]).item()


def test_shuffle_from_a_missing_lane_is_refused(host: KernelHost) -> None:
    source = "out[thread_position_in_grid.x] = simd_shuffle(1.0f, 20);"
    with pytest.raises(KernelFault, match="lane that is not active") as caught:
        launch(host, source)
    assert caught.value.kind == "inactive-lane"


def test_fault_inside_a_header_function_names_the_header(host: KernelHost) -> None:
    header = (
        "template <typename P>\ninline float pick(P p, uint i) { return p[i + 16]; }\n"
    )
    source = "out[thread_position_in_grid.x] = pick(data, thread_position_in_grid.x);"
    with pytest.raises(KernelFault, match=r"header line 2: .*element 16 of 'data'"):
        launch(host, source, header=header)


def test_lint_runs_before_anything_else(host: KernelHost) -> None:
    with pytest.raises(LintFault, match="source line 1: .*no double"):
        launch(host, "double x = 1; " + COPY)

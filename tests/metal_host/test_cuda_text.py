"""The CUDA signature follows MLX's rules, and CUDA's own rules hold."""

import mlx.core as mx
import pytest

from tests.metal_host.harness import CompileFault, KernelFault, KernelHost
from tests.metal_host.harness.cuda_text import compose


def launch(host: KernelHost, source: str, *, header: str = "", **call) -> mx.array:
    """Run a CUDA text on a grid of 70 threads in blocks of 32."""
    shared_memory = call.pop("shared_memory", 0)
    inputs = call.pop("inputs", {"data": mx.arange(70).astype(mx.float32)})
    name = call.pop("name", f"rule_{len(header + source)}_{len(host.launches)}")
    kernel = host.cuda_kernel(
        name, list(inputs), ["out"], source, header, shared_memory=shared_memory
    )
    call = {
        "output_shapes": [(70,)],
        "output_dtypes": [mx.float32],
        "grid": (70, 1, 1),
        "threadgroup": (32, 1, 1),
    } | call
    return kernel(inputs=list(inputs.values()), **call)[0]


RANK = "const int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= 70) return; "


def test_signature_lists_pointers_and_shapes_by_value() -> None:
    text = compose(
        "sum",
        "// header\n",
        "out[0] = x_shape[0] + x_ndim; // e_shape",
        inputs=[("x", mx.zeros((2, 3), mx.bfloat16)), ("e", mx.array(1.0))],
        outputs=[("out", mx.float16)],
        template=[("T", mx.bfloat16), ("N", 3), ("FLAG", True)],
    )
    assert text.buffer_names == ["x", "x_shape", "x_ndim", "e", "out"]
    for words in (
        "    const __nv_bfloat16* x,\n",
        "    const __grid_constant__ mlx::core::cu::Shape x_shape,\n",
        "    const __grid_constant__ int x_ndim,\n",
        "    const float* e,\n",
        "    __half* out) {\n",
        "  using T = __nv_bfloat16;\n",
        "  constexpr int N = 3;\n",
        "  constexpr bool FLAG = true;\n",
    ):
        assert words in text.before


def test_template_arguments_are_int_bool_or_dtype(host: KernelHost) -> None:
    with pytest.raises(ValueError, match="bool, int or dtype, got 0.5"):
        launch(host, RANK + "out[i] = data[i];", template=[("X", 0.5)])


def test_header_cannot_see_template_arguments(host: KernelHost) -> None:
    header = "inline int twice() { return 2 * N; }\n"
    with pytest.raises(CompileFault, match="'N' was not declared|‘N’ was not declared"):
        launch(host, RANK + "out[i] = twice();", header=header, template=[("N", 3)])


def test_two_texts_under_one_name_and_template_are_a_fault(host: KernelHost) -> None:
    """MLX would run the text that it compiled first, whatever the second says."""
    launch(host, RANK + "out[i] = data[i];", name="same")
    launch(host, RANK + "out[i] = data[i];", name="same")
    with pytest.raises(KernelFault, match="name-clash"):
        launch(host, RANK + "out[i] = 2.0f * data[i];", name="same")
    half = {"data": mx.arange(70).astype(mx.float16)}
    with pytest.raises(KernelFault, match="name-clash"):
        launch(host, RANK + "out[i] = data[i];", name="same", inputs=half)
    template = {"template": [("N", 2)]}
    launch(host, RANK + "out[i] = N * data[i];", name="same", **template)


def test_scalars_are_pointers(host: KernelHost) -> None:
    inputs = {"eps": mx.array(2.0)}
    out = launch(host, RANK + "out[i] = eps[0];", inputs=inputs)
    assert out.tolist() == [2.0] * 70


def test_shapes_strides_and_dimensions_are_values(host: KernelHost) -> None:
    source = RANK + "out[i] = data_shape[1] * 100 + data_strides[0] * 10 + data_ndim;"
    out = launch(host, source, inputs={"data": mx.zeros((3, 4))})
    assert out[0].item() == 442.0


def test_half_types_convert_explicitly_only(host: KernelHost) -> None:
    dtype = {"output_dtypes": [mx.bfloat16]}
    with pytest.raises(CompileFault, match="__nv_bfloat16|HostNarrowFloat"):
        launch(host, RANK + "out[i] = data[i];", **dtype)
    out = launch(host, RANK + "out[i] = static_cast<__nv_bfloat16>(data[i]);", **dtype)
    assert out[69].item() == 69.0


def test_dynamic_shared_memory_must_be_requested(host: KernelHost) -> None:
    source = """
    extern __shared__ float buffer[];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer[threadIdx.x] = i < 70 ? data[i] : 0.0f;
    __syncthreads();
    if (i < 70) out[i] = buffer[threadIdx.x ^ 1];
    """
    with pytest.raises(KernelFault, match="not requested"):
        launch(host, source)
    assert launch(host, source, shared_memory=128)[0].item() == 1.0
    with pytest.raises(KernelFault, match="element 31 of 'buffer' .size 31"):
        launch(host, source, shared_memory=124)


def test_shared_variables_of_any_type_are_shared(host: KernelHost) -> None:
    source = """
    __shared__ unsigned int first;
    if (threadIdx.x == 5) first = blockIdx.x;
    __syncthreads();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < 70) out[i] = first;
    """
    assert launch(host, source)[::32].tolist() == [0.0, 1.0, 2.0]


def test_early_return_before_a_barrier_is_refused(host: KernelHost) -> None:
    source = RANK + "__syncthreads(); out[i] = data[i];"
    with pytest.raises(KernelFault, match="6 of 32 threads; 26 returned"):
        launch(host, source)


def test_warp_shuffle_beyond_the_end_keeps_the_value(host: KernelHost) -> None:
    source = """
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float x = i < 70 ? data[i] : 0.0f;
    const float next = __shfl_down_sync(0xffffffff, x, 1);
    if (i < 70) out[i] = next;
    """
    out = launch(host, source)
    assert out[:3].tolist() == [1.0, 2.0, 3.0]
    assert out[31].item() == 31.0


def test_misaligned_vector_load_is_refused(host: KernelHost) -> None:
    source = RANK + "out[i] = reinterpret_cast<const float4*>(data)[i / 8].x;"
    with pytest.raises(KernelFault, match="misaligned.*offset by one element"):
        launch(host, source)


def test_grid_has_65535_blocks_in_y_and_z(host: KernelHost) -> None:
    with pytest.raises(KernelFault, match="blocks are more than"):
        launch(host, RANK, grid=(70, 65536, 1), threadgroup=(32, 1, 1))


def test_static_shared_memory_is_limited_to_48_kilobytes(host: KernelHost) -> None:
    source = "__shared__ float big[48 * 256 + 1]; big[0] = 0.0f;"
    with pytest.raises(KernelFault, match="the limit is 49152"):
        launch(host, source)

"""MLX arrays to and from flat NumPy storage, with the element types kernels see."""

import mlx.core as mx
import numpy as np

_STORAGE = {
    mx.bool_: np.bool_,
    mx.uint8: np.uint8,
    mx.int8: np.int8,
    mx.uint16: np.uint16,
    mx.int16: np.int16,
    mx.uint32: np.uint32,
    mx.int32: np.int32,
    mx.uint64: np.uint64,
    mx.int64: np.int64,
    mx.float16: np.float16,
    mx.bfloat16: np.uint16,  # NumPy has no bfloat16: bits only
    mx.float32: np.float32,
}


def _bits(array: mx.array) -> mx.array:
    return array.view(mx.uint16) if array.dtype == mx.bfloat16 else array


def contiguous(array: mx.array) -> tuple[np.ndarray, list[int]]:
    """Flat row-major copy and its strides, as ``ensure_row_contiguous=True`` gives."""
    sizes = [*array.shape[1:], 1]
    strides = [int(np.prod(sizes[axis:])) for axis in range(array.ndim)]
    return np.array(_bits(array)).reshape(-1), strides


def strided(array: mx.array) -> tuple[np.ndarray, list[int]]:
    """The storage behind a view and its element strides, without making it dense."""
    view = np.array(_bits(array), copy=False)
    strides = [step // view.itemsize for step in view.strides]
    if min(strides, default=0) < 0:
        raise ValueError("[kernel host] negative strides are not modelled.")
    reach = 1 + sum((n - 1) * s for n, s in zip(view.shape, strides, strict=True))
    flat = np.lib.stride_tricks.as_strided(view, (reach,), (view.itemsize,))
    return flat.copy(), strides


def empty(shape: tuple[int, ...], dtype: mx.Dtype, fill: float | None) -> np.ndarray:
    """Flat storage for an output, filled with ``init_value`` if there is one."""
    storage = np.zeros(int(np.prod(shape)), _STORAGE[dtype])
    if fill is not None:
        storage[...] = np.array(_bits(mx.full((1,), fill, dtype=dtype)))[0]
    return storage


def to_mlx(storage: np.ndarray, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Flat storage as an MLX array."""
    array = mx.array(storage)
    bits = array.view(mx.bfloat16) if dtype == mx.bfloat16 else array
    return bits.reshape(shape)

"""Embedding: the reference by hand, and the kernels against it."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import embedding, pack_rows
from energyflow_mlx.ops.embedding import embedding_reference
from tests.ops.comparison import (
    DTYPES,
    as_numpy,
    assert_close,
    assert_same_bits,
    name_of,
)

# Rows R, features D, ids N. One id; off the vector width; whole packs and several
# chunks; more than one group.
SIZES = [(1, 1, 1), (5, 3, 9), (7, 16, 200), (300, 33, 70)]
FORMATS = [(t, r) for t in DTYPES for r in DTYPES if mx.float32 in (t, r) or t == r]


def sample(rows, width, count, dtype=mx.float32, frequent=0.6):
    """A table and ids of which most are row 0, as padding is."""
    rng = np.random.default_rng(rows + width + count)
    ids = rng.integers(0, rows, count)
    ids[rng.random(count) < frequent] = 0
    table = mx.array(rng.normal(size=(rows, width)).astype(np.float32))
    return table.astype(dtype), mx.array(ids.astype(np.int32))


def rows_and_gradient(table, ids, backend, dtype=None):
    shape = (*ids.shape, table.shape[1])
    weight = mx.random.normal(shape, key=mx.random.key(1)).astype(dtype or table.dtype)

    def function(table):
        return embedding(table, ids, dtype=dtype, backend=backend)

    (rows,), (gradient,) = mx.vjp(function, [table], [weight])
    return rows, gradient


def test_reference_is_rows_and_sums_by_hand():
    table = mx.array([[1.0, 2], [3, 4], [5, 6]])
    ids = mx.array([2, 0, 2])
    g = mx.array([[1.0, 10], [2, 20], [4, 40]])
    (rows,), (gradient,) = mx.vjp(lambda t: embedding_reference(t, ids), [table], [g])
    assert rows.tolist() == [[5, 6], [1, 2], [5, 6]]
    assert gradient.tolist() == [[2, 20], [0, 0], [5, 50]]


def test_half_gradients_are_summed_in_float32():
    """5,000 halves summed in bfloat16 would stop at 256."""
    ids, g = mx.zeros(5000, mx.int32), mx.ones((5000, 1), mx.bfloat16)

    def function(table):
        return embedding(table, ids, dtype=mx.bfloat16, backend="reference")

    assert mx.vjp(function, [mx.zeros((2, 1))], [g])[1][0].tolist() == [[5000], [0]]
    half = mx.zeros((2, 1), mx.bfloat16)
    assert mx.vjp(function, [half], [g])[1][0][0].item() == pytest.approx(
        5000, rel=4e-3
    )


@pytest.mark.parametrize("dtype", [None, mx.bfloat16], ids=str)
def test_ids_of_any_shape_give_rows_of_the_asked_format(dtype):
    table, ids = sample(5, 3, 12)
    rows = embedding(table, ids.reshape(2, 3, 2), dtype=dtype)
    assert rows.shape == (2, 3, 2, 3)
    assert rows.dtype == (dtype or mx.float32)
    assert_close(rows.reshape(12, 3), table[ids].astype(rows.dtype))


@pytest.mark.parametrize(
    ("table_dtype", "dtype"), FORMATS, ids=lambda d: name_of(d) if d else "same"
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_match_reference(gpu_backend, size, table_dtype, dtype):
    table, ids = sample(*size, table_dtype)
    ours = rows_and_gradient(table, ids, gpu_backend, dtype)
    wanted = rows_and_gradient(table, ids, "reference", dtype)
    for a, b in zip(ours, wanted, strict=True):
        assert_close(a, b)


def test_kernels_gradient_of_a_float32_table_is_not_rounded_to_the_half_format(
    gpu_backend,
):
    table, ids = mx.zeros((3, 8)), mx.zeros(1000, mx.int32)
    g = mx.full((1000, 8), 1.0078125).astype(mx.bfloat16)  # 1 + 2^-7, a bfloat16
    (gradient,) = mx.vjp(
        lambda t: embedding(t, ids, dtype=mx.bfloat16, backend=gpu_backend),
        [table],
        [g],
    )[1]
    assert_close(gradient[0], mx.full((8,), 1007.8125), 1e-6)
    assert not as_numpy(gradient[1:]).any()


@pytest.mark.parametrize("count", [31, 32, 33, 63, 64, 65, 96, 97, 200])
@pytest.mark.parametrize("before", [0, 1, 31])
def test_kernels_sum_segments_at_every_place_of_the_chunks(gpu_backend, count, before):
    ids = mx.array([0] * before + [1] * count + [3] * 5, mx.int32)
    table = mx.zeros((5, 4))
    ours = rows_and_gradient(table, ids, gpu_backend)[1]
    assert_close(ours, rows_and_gradient(table, ids, "reference")[1])


def test_kernels_take_strided_and_offset_views(gpu_backend):
    table, ids = sample(9, 16, 40)
    for view in (table[1:], table[:, 3:], table[:, ::2]):
        inside = ids % view.shape[0]
        for chosen in (inside, inside[1:], inside[::3], inside.reshape(4, 10).T):
            ours = rows_and_gradient(view, chosen, gpu_backend)
            wanted = rows_and_gradient(view, chosen, "reference")
            for a, b in zip(ours, wanted, strict=True):
                assert_close(a, b)


def test_kernels_read_zeros_outside_the_table_and_give_nothing_there(gpu_backend):
    table = mx.arange(8.0).reshape(4, 2) + 1
    rows, gradient = rows_and_gradient(table, mx.array([-1, 3, 4, 99]), gpu_backend)
    assert rows.tolist() == [[0, 0], [7, 8], [0, 0], [0, 0]]
    assert as_numpy(gradient)[3].all()
    assert not as_numpy(gradient)[:3].any()


POSITION, PLACE = mx.array([4, 1, 3, 0]), mx.array([-1, 1, -1, 2, 0])


def packed_and_gradient(backend, dtype=mx.float32):
    x = mx.arange(15.0).reshape(5, 3).astype(dtype)
    g = (mx.arange(12.0).reshape(4, 3) + 1).astype(dtype)
    (rows,), (gradient,) = mx.vjp(
        lambda x: pack_rows(x, POSITION, PLACE, backend=backend), [x], [g]
    )
    return rows, gradient


def assert_packed(backend, dtype):
    rows, gradient = packed_and_gradient(backend, dtype)
    assert rows.dtype == gradient.dtype == dtype
    assert rows[:, 0].tolist() == [12, 3, 9, 0]
    # The last packed row fills the fixed size: no place names it.
    assert gradient[:, 0].tolist() == [0, 4, 0, 7, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_packed_rows_and_their_gradients_are_looked_up(dtype):
    assert_packed("reference", dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_kernels_pack_rows_too(gpu_backend, dtype):
    assert_packed(gpu_backend, dtype)


def test_equal_input_gives_equal_bits(gpu_backend):
    table, ids = sample(6, 33, 500, mx.bfloat16)
    runs = [rows_and_gradient(table, ids, gpu_backend) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


def test_second_gradient_matches_reference(gpu_backend):
    table, ids = sample(4, 3, 10)

    def curvature(backend):
        def loss(table):
            return (embedding(table, ids, backend=backend) ** 3).sum()

        return mx.grad(lambda t: (mx.grad(loss)(t) ** 2).sum())(table)

    assert_close(curvature(gpu_backend), curvature("reference"))


def test_empty_arrays_need_no_kernel(gpu_backend):
    empty = embedding(mx.zeros((3, 2)), mx.zeros((0,), mx.int32), backend=gpu_backend)
    assert empty.shape == (0, 2)


def test_wrong_arguments_are_named():
    table, ids = mx.zeros((3, 2)), mx.zeros((4,), mx.int32)
    with pytest.raises(ValueError, match=r"table must be \[R, D\], got \[3\]"):
        embedding(table[:, 0], ids)
    with pytest.raises(TypeError, match="ids must be integers, got .*float32"):
        embedding(table, ids.astype(mx.float32))
    with pytest.raises(TypeError, match="must be float formats, got .*int32"):
        embedding(table.astype(mx.int32), ids)
    with pytest.raises(TypeError, match="must be float formats, got .*int32"):
        embedding(table, ids, dtype=mx.int32)


def looked_up(table, ids, backend):
    weight = mx.random.normal((ids.size, table.shape[1]), key=mx.random.key(0))

    def loss(table):
        rows = embedding(table, ids, backend=backend)
        return mx.sum(rows * weight), rows

    (_, rows), gradient = mx.value_and_grad(loss)(table)
    return rows, gradient


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_native_form_matches_reference(size, dtype, dirty_memory):
    table, ids = sample(*size, dtype)
    found = looked_up(table, ids, "cpu")
    expected = looked_up(table, ids, "reference")
    assert_same_bits(found[0], expected[0])
    assert_close(found[1], expected[1])


def test_native_form_reads_zeros_where_an_id_is_negative(dirty_memory):
    x = mx.random.normal((5, 3))
    position, place = mx.array([4, 1]), mx.array([-1, 1, -1, -1, 0])
    for backend in ("cpu", "reference"):

        def loss(x, backend=backend):
            return mx.sum(pack_rows(x, position, place, backend=backend))

        gradient = as_numpy(mx.grad(loss)(x))
        np.testing.assert_array_equal(gradient[:, 0], [0, 1, 0, 0, 1])


def test_native_form_gives_equal_bits_and_keeps_nan():
    table, ids = sample(300, 33, 70)
    one, two = (looked_up(table, ids, "cpu") for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert_same_bits(a, b)
    table = mx.where(mx.arange(300)[:, None] == 7, float("nan"), table)
    rows = as_numpy(embedding(table, mx.array([6, 7]), backend="cpu"))
    assert np.isnan(rows[1]).all() and np.isfinite(rows[0]).all()


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_id_that_is_no_row_of_the_table_reads_zeros(backend):
    table, bad = mx.ones((3, 2)), [3, -1, 2**31 - 1, -(2**31)]
    rows = embedding(table, mx.array([[*bad, 2]]), backend=backend)
    np.testing.assert_array_equal(np.array(rows[0]), [*[[0, 0]] * 4, [1, 1]])

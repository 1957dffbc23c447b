"""Where flows fall in the cube: what holds for write and read, plain and as kernels."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import field_read, field_write
from tests.ops.comparison import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)
from tests.ops.fields import (
    OPS,
    arguments,
    assert_kernel_matches,
    every_op,
    flows,
    gradients,
)

KINDS = (mx.float32, mx.float16)


@pytest.mark.parametrize("cells", [2, 3, 6])
def test_write_and_read_are_adjoint(cells):
    position, alive = flows(2, 40)
    value = mx.random.normal((2, 40, 3))
    field = mx.random.normal((2, cells, cells, cells, 3))
    written = (field_write(position, value, alive, cells) * field).sum()
    read = (value * field_read(field, position, alive)).sum()
    assert written.item() == pytest.approx(read.item(), rel=1e-4, abs=1e-3)


@every_op
def test_each_has_the_others_gradient(op):
    position, alive = flows(2, 30)
    field = mx.random.normal((2, 4, 4, 4, 2))
    value = mx.random.normal((2, 30, 2))
    written = lambda v: field_write(position, v, alive, 4)  # noqa: E731
    read = lambda f: field_read(f, position, alive)  # noqa: E731
    forms = {"write": (written, read), "read": (read, written)}
    at, g = (value, field) if op == "write" else (field, value)
    _, (found,) = mx.vjp(forms[op][0], [at], [g])
    assert_close(found, forms[op][1](g))


@every_op
def test_gradients_match_finite_differences(op):
    given = arguments(op, *flows(1, 12, reach=0.9), cells=4)
    function = OPS[op][0]
    weighting = mx.random.normal(function(*given).shape)

    def loss(first, second):
        return (function(first, second, *given[2:]) * weighting).sum()

    for i, gradient in enumerate(mx.grad(loss, argnums=(0, 1))(*given[:2])):
        direction = mx.random.normal(gradient.shape)

        def along(value, i=i):
            return loss(*(value if n == i else given[n] for n in range(2)))

        slope = float((gradient * direction).sum())
        expected = finite_difference(along, given[i], direction, step=1e-3)
        assert slope == pytest.approx(expected, rel=1e-2, abs=2e-3)


@every_op
def test_dead_and_dropped_flows_leave_no_trace(op):
    position, _ = flows(1, 8)
    position[0, 2, 0] = position[0, 5, 2] = position[0, 6] = mx.nan
    alive = mx.array([[True, True, True, False, True, True, False, True]])
    keep = mx.array([0, 1, 4, 7])
    given = list(arguments(op, position, alive, 4))
    if op == "write":
        given[1][0, 3] = mx.nan
    kept = [a[:, keep] if op == "write" or n else a for n, a in enumerate(given[:3])]
    function = OPS[op][0]
    whole, part = function(*given), function(*kept, *given[3:])
    assert_close(whole if op == "write" else whole[:, keep], part)
    of_flows = [g for g in gradients(function, given) if g.ndim == 3]
    for g in [*of_flows, *([whole] if op == "read" else [])]:
        assert mx.isfinite(g).all()
        assert not g[0, mx.array([2, 3, 5, 6])].any()


@every_op
def test_kernels_drop_dead_flows_whatever_they_hold(gpu_backend, op):
    position, alive = flows(2, 70)
    position[:, 3, 1] = mx.nan
    position[0, 9] = mx.nan
    alive[0, 9] = False
    given = arguments(op, position, alive, 3)
    if op == "write":
        given[1][0, 9] = mx.nan
    assert_kernel_matches(op, gpu_backend, given)


@every_op
def test_huge_coordinates_land_on_the_border(gpu_backend, op):
    position = mx.array([[[1e30, -mx.inf, 1.5], [-1e30, 3e38, -1.0]]])
    given = arguments(op, position, mx.ones((1, 2), mx.bool_), 3)
    assert_kernel_matches(op, gpu_backend, given)
    border = (given[0] if op == "read" else field_write(*given))[0]
    value = field_read(*given) if op == "read" else given[1]
    assert_close(mx.stack([border[2, 0, 2], border[0, 2, 0]]), value[0])


@every_op
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_kernels_match_reference(gpu_backend, op, dtype):
    given = arguments(op, *flows(2, 300), 6, dtype=dtype)
    assert_kernel_matches(op, gpu_backend, given)


@every_op
@pytest.mark.parametrize(
    ("count", "cells", "channels"), [(1, 2, 1), (40, 3, 5), (300, 9, 3), (33, 12, 2)]
)
def test_kernels_match_on_odd_fields(gpu_backend, op, count, cells, channels):
    given = arguments(op, *flows(2, count), cells, channels)
    assert_kernel_matches(op, gpu_backend, given)


@every_op
def test_kernels_match_on_the_cells_and_in_one_place(gpu_backend, op):
    on_cells = mx.random.randint(0, 5, (1, 150, 3)).astype(mx.float32) / 2 - 1
    crowded = mx.broadcast_to(mx.array([0.31, -0.2, 0.7]), (1, 150, 3))
    for position in (on_cells, crowded):
        given = arguments(op, position, mx.ones((1, 150), mx.bool_), 5)
        assert_kernel_matches(op, gpu_backend, given, 3e-5)


@every_op
def test_kernels_take_strided_views_and_mixed_dtypes(gpu_backend, op):
    position, alive = flows(4, 21)
    position, alive = position.astype(mx.float16)[::2], alive[1::2]
    given = list(arguments(op, position, alive, 3, dtype=mx.bfloat16))
    values = 0 if op == "read" else 1
    given[values] = mx.concatenate([given[values]] * 2)[::2]
    assert_kernel_matches(op, gpu_backend, given)


@every_op
def test_kernels_of_other_dtypes_are_other_kernels(gpu_backend, op):
    """Many flows are summed in float32 slices, so the output tells no dtypes apart."""
    position, alive = flows(1, 2500)
    for kind in KINDS:
        for dtype in KINDS:
            given = arguments(op, position.astype(kind), alive, 3, dtype=dtype)
            result = OPS[op][0](*given, backend=gpu_backend)
            limit = max(TOLERANCE[dtype], 1e-4)
            assert_close(result, OPS[op][1](*given), limit)


@every_op
def test_two_runs_give_the_same_bits(gpu_backend, op):
    given = arguments(op, *flows(2, 200), 4)
    runs = [
        [
            OPS[op][0](*given, backend=gpu_backend),
            *gradients(OPS[op][0], given, backend=gpu_backend),
        ]
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


@every_op
def test_no_flows_give_an_empty_result(gpu_backend, op):
    nobody = mx.zeros((2, 0, 3)), mx.zeros((2, 0), mx.bool_)
    result = OPS[op][0](*arguments(op, *nobody, 3), backend=gpu_backend)
    assert result.shape == ((2, 0, 2) if op == "read" else (2, 3, 3, 3, 2))
    assert not np.array(result).any()


@every_op
def test_wrong_arguments_are_named(op):
    function = OPS[op][0]
    position, alive = flows(2, 5)

    def call(position=position, alive=alive, cells=3, dtype=mx.float32):
        given = list(arguments(op, *flows(2, 5), cells, dtype=dtype))
        given[1 if op == "read" else 0] = position
        given[2] = alive
        return function(*given)

    with pytest.raises(ValueError, match=rf"\[field_{op}\] position must be \[B, F, 3"):
        call(position=position[..., :2])
    with pytest.raises(ValueError, match=r"alive must be \[B, F\] = \[2, 5\]"):
        call(alive=alive[:, :4])
    with pytest.raises(ValueError, match="cells must be 2 or more, got 1"):
        call(cells=1)
    with pytest.raises(TypeError, match="alive must be bool, got mlx.core.float32"):
        call(alive=alive.astype(mx.float32))
    with pytest.raises(TypeError, match="arrays must be float, got"):
        call(dtype=mx.int32)

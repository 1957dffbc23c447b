"""AdamW and the norm of gradients: the native form against the reference."""

import io
import re

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops.adamw import (
    Adamw,
    Constants,
    Rates,
    adamw,
    adamw_rows,
    gradient_norm,
)
from tests.ops.comparison import assert_close, assert_same_bits

CONSTANTS = Constants((0.9, 0.99), 1e-8, 0.1)
# One number; odd; more than one chunk of a thread.
SHAPES = [(1,), (3, 5), (257, 131)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def rates(factor=0.5, *, moves=True):
    return Rates(mx.array(factor), mx.array(0.01), mx.array(moves))


def start(shape):
    p, m, v = (mx.random.normal(shape) for _ in range(3))
    return Adamw(p, m, mx.square(v), mx.array(3.0))


def copies(state):
    """The same numbers in memory of their own, that an update may write over."""
    return Adamw(*(mx.array(np.array(x)) for x in state))


@every_shape
def test_native_update_equals_the_reference(shape):
    state, gradient = start(shape), mx.random.normal(shape)
    expected = adamw(state, gradient, rates(), CONSTANTS, backend="reference")
    found = adamw(state, gradient, rates(), CONSTANTS, backend="cpu")
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-6)
    assert found.t.item() == 4


@every_shape
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_moves_where_it_must_not(shape, bad):
    state, gradient = start(shape), mx.full(shape, bad)
    for backend in ("cpu", "reference"):
        found = adamw(
            state, gradient, rates(bad, moves=False), CONSTANTS, backend=backend
        )
        for a, b in zip(found, state, strict=True):
            assert_same_bits(a, b)


def test_update_writes_over_what_nobody_else_holds():
    state, gradient = copies(start((64, 33))), mx.random.normal((64, 33))
    mx.eval(state, gradient)
    before = [address(x) for x in state[:3]]
    held = adamw(state, gradient, rates(), CONSTANTS, backend="cpu")
    mx.eval(held)
    assert [address(x) for x in held[:3]] != before  # the test holds the old ones
    expected = [np.array(x) for x in held]
    given = copies(state)
    mx.eval(given)
    before = [address(x) for x in given[:3]]
    taken = adamw(given, gradient, rates(), CONSTANTS, backend="cpu")
    del given
    mx.eval(taken)
    assert [address(x) for x in taken[:3]] == before
    for a, b in zip(taken, expected, strict=True):
        np.testing.assert_array_equal(np.array(a), b)


def address(x):
    return np.array(x, copy=False).__array_interface__["data"][0]


@pytest.mark.parametrize("width", [(), (1,), (37,)], ids=str)
@pytest.mark.parametrize("is_gathered", [True, False])
def test_native_row_update_equals_the_reference(width, is_gathered):
    table = start((70, *width))
    rows = mx.array(np.random.default_rng(0).permutation(70)[:41].astype(np.int32))
    rows = rows if is_gathered else None
    count = 41 if is_gathered else 70
    wanted = (mx.arange(count) % 3 != 0).astype(mx.float32)
    gradient = mx.random.normal((count, *width))
    arguments = (gradient, rows, wanted, rates(), CONSTANTS)
    expected = adamw_rows(table, *arguments, backend="reference")
    found = adamw_rows(copies(table), *arguments, backend="cpu")
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-6)
    index = np.arange(70) if rows is None else np.array(rows)
    still = np.setdiff1d(np.arange(70), index[np.array(wanted) > 0])
    for a, b in zip(found[:3], table[:3], strict=True):
        np.testing.assert_array_equal(np.array(a)[still], np.array(b)[still])


def test_rows_move_nothing_where_they_must_not():
    table, gradient = start((5, 3)), mx.full((2, 3), float("nan"))
    for backend in ("cpu", "reference"):
        found = adamw_rows(
            table,
            gradient,
            mx.array([4, 1]),
            mx.ones(2),
            rates(moves=False),
            CONSTANTS,
            backend=backend,
        )
        for a, b in zip(found, table, strict=True):
            assert_same_bits(a, b)


def test_strided_arrays_are_read_in_their_order():
    state = Adamw(*(x.T for x in start((7, 5))[:3]), mx.array(0.0))
    gradient = mx.broadcast_to(mx.random.normal((5, 1)), (5, 7))
    expected = adamw(state, gradient, rates(), CONSTANTS, backend="reference")
    found = adamw(state, gradient, rates(), CONSTANTS, backend="cpu")
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-6)


def test_norm_equals_the_reference_and_repeats_to_the_bit():
    arrays = [mx.random.normal(shape) for shape in ((1,), (300, 333), (7, 3, 5))]
    found = gradient_norm(arrays, backend="cpu")
    exact = np.sqrt(sum(np.square(np.array(a, np.float64)).sum() for a in arrays))
    assert found.item() == pytest.approx(exact, rel=1e-6)
    plain = gradient_norm(arrays, backend="reference")
    assert plain.item() == pytest.approx(exact, rel=1e-4)
    assert_same_bits(found, gradient_norm(arrays, backend="cpu"))
    assert gradient_norm([]).item() == 0
    for bad in (float("nan"), float("inf")):
        assert not np.isfinite(gradient_norm([*arrays, mx.array([bad])]).item())


def test_wrong_arguments_are_named():
    state = start((3, 5))
    with pytest.raises(ValueError, match=r"\[adamw\] p, g, m and v must have one"):
        adamw(state, mx.zeros((3, 4)), rates(), CONSTANTS)
    with pytest.raises(ValueError, match=r"must be \[2, 5\] and \[2\], got \[3, 5\]"):
        adamw_rows(
            state, mx.zeros((3, 5)), mx.array([0, 1]), mx.ones(3), rates(), CONSTANTS
        )
    each = CONSTANTS._replace(decay=mx.zeros((3, 5)))
    with pytest.raises(TypeError, match="decay must be a number"):
        adamw(state, mx.zeros((3, 5)), rates(), each, backend="cpu")


@pytest.mark.parametrize("rows", [False, True], ids=["whole", "rows in order"])
def test_the_plain_update_compiles_into_one_kernel_over_the_parameter(rows):
    """A longer expression is cut into kernels, with what crosses a cut in memory."""

    def update(p, m, v, t, gradient, wanted, factor, lr, moves):
        state, rates = Adamw(p, m, v, t), Rates(factor, lr, moves)
        if rows:
            arguments = (gradient, None, wanted, rates, CONSTANTS)
            return adamw_rows(state, *arguments, backend="reference")
        return adamw(state, gradient, rates, CONSTANTS, backend="reference")

    state = start((64, 32))
    graph = io.StringIO()
    arguments = [*state, mx.ones((64, 32)), mx.ones(64), *rates()]
    mx.eval(arguments)
    mx.export_to_dot(graph, *mx.compile(update)(*arguments))
    kernels = re.findall(r'label ?="(Compiled\w+)"', graph.getvalue())
    assert sum("Sqrt" in name for name in kernels) == 1
    (kernel,) = (name for name in kernels if "Sqrt" in name)
    assert not [
        k for k in kernels if k != kernel and ("Multiply" in k or "Select" in k)
    ]


def test_a_decay_rate_of_zero_takes_the_last_gradient_alone():
    state, gradient = start((3, 5)), mx.random.normal((3, 5))
    none = CONSTANTS._replace(betas=(0.0, 0.0))
    for backend in ("cpu", "reference"):
        found = adamw(state, gradient, rates(), none, backend=backend)
        assert_close(found.m, gradient * rates().factor, 1e-6)

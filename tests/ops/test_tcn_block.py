"""The block operation: the native form against the composed one, with gradients."""

import os
import subprocess
import sys
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import tcn_block
from energyflow_mlx.ops._backend import available
from energyflow_mlx.ops.tcn_block import BlockWeights, tcn_block_reference
from tests.ops.comparison import (
    TOLERANCE,
    as_numpy,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

pytestmark = pytest.mark.skipif(not available("cpu"), reason="no compiler")


class Case:
    """Arrays of one block; odd sizes unless told otherwise."""

    def __init__(
        self,
        lengths=(7, 3, 5),
        longest=9,
        dim=19,
        hidden=37,
        kernel_size=3,
        dilation=1,
        causal=True,
        form="exact",
        film=False,
        drop=False,
        holes=(),
        seed=0,
    ):
        draw = np.random.default_rng(seed)

        def normal(*shape, scale=1.0):
            return mx.array((scale * draw.standard_normal(shape)).astype(np.float32))

        mask = np.arange(longest)[None] < np.array(lengths)[:, None]
        for b, t in holes:
            mask[b, t] = False
        batch, fan_in = len(lengths), kernel_size * dim
        self.mask = mx.array(mask.astype(np.float32))
        self.x = normal(batch, longest, dim) + 0.5  # padding holds numbers too
        self.weights = BlockWeights(
            1 + normal(dim, scale=0.3),
            normal(dim, scale=0.3),
            normal(hidden, kernel_size, dim, scale=fan_in**-0.5),
            normal(hidden, scale=0.3),
            normal(dim, hidden, scale=hidden**-0.5),
            normal(dim, scale=0.3),
        )
        self.film = [normal(batch, 1, dim, scale=0.5) for _ in range(2 if film else 0)]
        factors = (draw.random((batch, longest, dim)) > 0.3) / 0.7
        self.drop = mx.array(factors.astype(np.float32)) if drop else None
        self.gy = normal(batch, longest, dim)
        self.options = {"dilation": dilation, "causal": causal, "form": form}

    @property
    def arrays(self):
        """Everything that has a gradient."""
        return [self.x, *self.weights, *self.film]

    def call(self, function, *arrays):
        """The block of ``function`` on ``arrays``."""
        x, *rest = arrays
        film = tuple(rest[6:]) or None
        weights = BlockWeights(*rest[:6])
        return function(x, self.mask, weights, film, drop=self.drop, **self.options)

    def results(self, function):
        """Value and the gradient of every array."""
        (y,), gradients = mx.vjp(partial(self.call, function), self.arrays, [self.gy])
        return [y, *gradients]


native = partial(tcn_block, backend="cpu")


def assert_native_is_reference(case, function=native):
    found, expected = case.results(function), case.results(tcn_block_reference)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("film", [False, True], ids=["plain", "film"])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel_size", "causal"),
    [(k, True) for k in range(1, 6)] + [(1, False), (3, False), (5, False)],
)
def test_native_equals_reference(kernel_size, causal, dilation, film):
    assert_native_is_reference(
        Case(kernel_size=kernel_size, causal=causal, dilation=dilation, film=film)
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"lengths": (1,), "longest": 1},
        {"lengths": (6,), "longest": 6},
        {"lengths": (5, 0, 2, 0)},
        {"lengths": (0, 0)},
        {"dim": 1, "hidden": 1},
        {"dim": 64, "hidden": 300},
        {"lengths": (9, 4) * 60},
        {"lengths": (300, 7), "longest": 310},
    ],
    ids=["one token", "one sentence", "empty ones", "only padding", "width 1"]
    + ["two parts of the weights", "several tiles", "longer than a tile"],
)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centred"])
def test_every_shape_equals_reference(shape, causal):
    assert_native_is_reference(Case(causal=causal, film=True, **shape))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centred"])
@pytest.mark.parametrize("film", [False, True], ids=["plain", "film"])
def test_masked_tokens_inside_a_sentence_are_read_as_the_reference_reads_them(
    causal, film
):
    holes = [(0, 0), (0, 3), (0, 4), (2, 4)]
    assert_native_is_reference(Case(holes=holes, causal=causal, film=film))


@pytest.mark.parametrize("form", ["exact", "tanh"])
@pytest.mark.parametrize("film", [False, True], ids=["plain", "film"])
def test_dropout_factors_equal_reference(form, film):
    assert_native_is_reference(Case(drop=True, form=form, film=film))


@pytest.mark.parametrize("film", [False, True], ids=["plain", "film"])
def test_a_block_that_keeps_nothing_gives_the_same_bits(film):
    case = Case(film=film)
    kept, recomputed = (
        case.results(partial(native, keep=keep)) for keep in (True, False)
    )
    for a, b in zip(kept, recomputed, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("function", [native, tcn_block_reference])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centred"])
def test_gradients_are_finite_differences(function, causal):
    case = Case(dim=5, hidden=6, film=True, causal=causal, holes=[(0, 2)])
    gradients = case.results(function)[1:]
    for i, (array, gradient) in enumerate(zip(case.arrays, gradients, strict=True)):
        direction = mx.random.normal(array.shape, key=mx.random.key(i))

        def along(moved, i=i):
            arrays = [*case.arrays[:i], moved, *case.arrays[i + 1 :]]
            return (case.call(function, *arrays) * case.gy).sum().item()

        slope = finite_difference(along, array, direction)
        assert (gradient * direction).sum().item() == pytest.approx(
            slope, rel=2e-2, abs=2e-2
        )


def test_a_nan_reaches_the_result_from_a_real_token_and_not_from_padding():
    case = Case(lengths=(7, 3), kernel_size=3)
    clean = case.results(native)
    for place, reaches in (((1, 2), True), ((1, 3), False), ((0, 8), False)):
        x = mx.array(case.x)
        x[place] = float("nan")
        dirty = Case(lengths=(7, 3), kernel_size=3)
        dirty.x = x
        found = dirty.results(native)
        # All but the gradient of the last bias, which does not depend on x.
        is_nan = [bool(mx.isnan(a).any()) for a in found[:-1]]
        assert all(is_nan) if reaches else not any(is_nan)
        if not reaches:
            for a, b in zip(found, clean, strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("wrap", [mx.compile, mx.checkpoint], ids=["compile", "ckpt"])
def test_works_inside_transforms(wrap):
    case = Case(film=True)

    def loss(*arrays):
        return (case.call(native, *arrays) * case.gy).sum()

    every = tuple(range(len(case.arrays)))
    found = mx.grad(wrap(loss), argnums=every)(*case.arrays)
    for a, b in zip(found, case.results(native)[1:], strict=True):
        assert_same_bits(a, b)
    compiled = mx.compile(mx.grad(loss, argnums=every))(*case.arrays)
    for a, b in zip(compiled, found, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=name_of)
def test_half_precision_computes_in_float32(dtype):
    case = Case(film=True)
    case.x = case.x.astype(dtype)
    case.gy = case.gy.astype(dtype)
    found = case.results(native)
    wide = Case(film=True)
    wide.x = case.x.astype(mx.float32)
    wide.gy = case.gy.astype(mx.float32)
    for a, b in zip(found, wide.results(tcn_block_reference), strict=True):
        scale = np.abs(as_numpy(b)).max()
        assert np.abs(as_numpy(a) - as_numpy(b)).max() <= TOLERANCE[dtype] * scale
    assert found[0].dtype == found[1].dtype == dtype


def test_integer_and_boolean_masks_are_masks():
    case = Case()
    expected = case.results(native)
    for dtype in (mx.bool_, mx.int32):
        case.mask = case.mask.astype(dtype)
        for a, b in zip(case.results(native), expected, strict=True):
            assert_same_bits(a, b)


_DIGEST = """
import energyflow_mlx, hashlib
import numpy as np
from tests.ops.test_tcn_block import Case, native
case = Case(lengths=(24, 9, 17) * 30, longest=24, dim=48, hidden=300, film=True)
digest = hashlib.sha256()
for array in case.results(native):
    digest.update(np.array(array).tobytes())
print(digest.hexdigest())
"""


def test_one_thread_and_two_give_the_same_bits():
    found = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-500:]
        found.add(done.stdout)
    assert len(found) == 1

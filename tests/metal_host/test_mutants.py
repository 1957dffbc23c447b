"""Mistakes planted into every line of the shipped kernels are noticed.

This measures two things at once: whether the host sees a mistake, and whether inputs
like those of the operations' tests provoke it. Mutants that compute the same thing in
another way cannot be caught, so the claim is a share, not all.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx
import pytest

from energyflow_mlx.ops import (
    _backend,
    causal_im2col,
    embedding,
    field_read,
    field_write,
    gelu,
    gru_blend,
    lattice_readout,
    lattice_scatter,
    layer_norm,
    linear_cross_entropy,
    masked_mean,
    pack_rows,
)
from tests.metal_host.harness import HostOptions, KernelHost, compiler
from tests.metal_host.mutations import Mutant, mutants

_log = logging.getLogger(__name__)
_CAUGHT_SHARE = 0.8  # the survivors read so far were all equivalent programs
_KERNELS = [
    ("masked_mean", "forward"),
    ("masked_mean", "backward"),
    ("causal_im2col", "forward"),
    ("causal_im2col", "backward"),
    ("gelu", "forward"),
    ("gelu", "backward"),
    ("embedding", "forward"),
    ("embedding", "segments"),
    ("embedding", "backward"),
    ("layer_norm", "forward"),
    ("layer_norm", "backward"),
    ("linear_cross_entropy", "forward"),
    ("linear_cross_entropy", "backward"),
    ("gru_blend", "forward"),
    ("gru_blend", "backward"),
    ("lattice_scatter", "forward"),
    ("lattice_scatter", "backward"),
    ("lattice_readout", "forward"),
    ("lattice_readout", "backward"),
    ("field_write", "forward"),
    ("field_write", "backward"),
    ("field_read", "forward"),
    ("field_read", "backward"),
]


def _flows(batch: int, count: int, least_weight: float) -> list[mx.array]:
    """Flows with ties between cells, NaN and far coordinates, and a crowded cell."""
    position = mx.random.uniform(-1.3, 1.3, (batch, count, 3))
    position[:, : count // 3, :2] = mx.round(position[:, : count // 3, :2] * 4) / 4
    position[:, count // 3 : count // 3 + 40, :2] = 0.3
    position[:, -1, 0] = float("nan")
    position[:, -2, 1] = 1e30
    energy = mx.random.normal((batch, count))
    weight = mx.random.uniform(shape=(batch, count))
    weight[:, 3] = least_weight
    return [position, energy, weight]


def _field(
    op: str, count: int, cells: int, channels: int
) -> tuple[Callable[..., mx.array], list]:
    """Flows of two samples, as ``_flows`` in the cube, a fifth of them dead."""
    position = _flows(2, count, 0.0)[0]
    position[:, : count // 3, 2] = mx.round(position[:, : count // 3, 2] * 4) / 4
    position[:, 3:5] = mx.nan
    position[:, -1] = 0.1  # a read beyond its channels is one beyond the array
    alive = mx.broadcast_to(mx.arange(count) % 5 != 3, (2, count))
    if op == "field_read":
        field = mx.random.normal((2, cells, cells, cells, channels))
        return partial(field_read, alive=alive), [field, position]
    value = mx.random.normal((2, count, channels))
    value[:, 3] = mx.nan
    return partial(field_write, alive=alive, cells=cells), [position, value]


def _mask(batch: int, length: int) -> mx.array:
    mask = (mx.random.uniform(shape=(batch, length)) > 0.4).astype(mx.float32)
    mask[0] = 0
    return mask


def _cases(op: str) -> list[tuple[Callable[..., mx.array], list]]:
    """Functions of a backend with their arguments: odd sizes, more than one tile."""
    if op == "masked_mean":
        sizes = [(2, 3, 5), (3, 130, 33), (2, 70, 264), (2, 64, 127)]
        dtypes = [mx.float32, mx.float32, mx.bfloat16, mx.float32]
        return [
            (partial(_mean, mask=_mask(*size[:2])), [mx.random.normal(size).astype(t)])
            for size, t in zip(sizes, dtypes, strict=True)
        ]
    if op == "causal_im2col":
        sizes = [(2, 4, 5, 3, 3), (2, 33, 33, 3, 2), (2, 16, 127, 2, 1)]
        sizes += [(2, 33, 264, 2, 5)]
        return [
            (
                partial(causal_im2col, kernel_size=taps, dilation=dilation),
                [mx.random.normal((batch, length, channels))],
            )
            for batch, length, channels, taps, dilation in sizes
        ]
    if op == "gelu":
        return [
            (partial(gelu, form=form), [3 * mx.random.normal((1, n))])
            for n in (3, 8, 1027)
            for form in ("exact", "tanh")
        ]
    if op == "embedding":
        sizes = [(3, 5, 7), (5, 33, 300), (40, 8, 70)]
        look_ups = [
            (partial(_look_up, ids=_ids(size[0], count)), [mx.random.normal(size)])
            for *size, count in sizes
        ]
        return [*look_ups, (_packed, [mx.random.normal((9, 33))])]
    if op == "layer_norm":
        return [
            (partial(layer_norm, eps=1e-5), [mx.random.normal(s) for s in (size, *two)])
            for size in [(3, 5), (7, 264), (2100, 9)]
            for two in [((size[1],), (size[1],))]
        ]
    if op == "linear_cross_entropy":
        return [_cross_entropy(*size) for size in [(4, 3, 5), (5, 8, 64), (3, 4, 2500)]]
    if op == "gru_blend":
        sizes = [(3, 5), (33, 33), (70, 264), (35, 127)]
        return [
            (gru_blend, [mx.random.normal(s) for s in _gru_shapes(*size)])
            for size in sizes
        ]
    if op.startswith("field"):
        sizes = [(20, 2, 1), (300, 5, 2), (300, 9, 2), (40, 3, 5), (2101, 7, 5)]
        return [_field(op, *size) for size in sizes]
    is_readout = op == "lattice_readout"
    function = lattice_readout if is_readout else lattice_scatter
    least_weight = float("-inf") if is_readout else 0.0
    surfaces = [
        ((9, 7), "bilinear", 300),
        ((9, 7), "nearest", 300),
        ((5, 4), "bilinear", 20),
        ((33, 31), "bilinear", 300),
        ((3, 4), "nearest", 2100),
    ]
    return [
        (partial(function, size=size, mode=mode), _flows(2, count, least_weight))
        for size, mode, count in surfaces
    ]


def _ids(rows: int, count: int) -> mx.array:
    """Ids of which half are one row."""
    ids = mx.random.randint(0, rows, (count,))
    ids = mx.where(mx.random.uniform(shape=(count,)) < 0.5, 1, ids)
    return ids.astype(mx.int32)


def _packed(x: mx.array, *, backend: str) -> mx.array:
    """Every other row; those between are looked up outside the rows there are."""
    every = mx.arange(9)
    outside = mx.where((every == 3) & (backend != "reference"), 5, -1)
    place = mx.where(every % 2 == 0, every // 2, outside)
    return pack_rows(x, every[::2], place, backend=backend)


def _look_up(table: mx.array, *, ids: mx.array, backend: str) -> mx.array:
    return embedding(table, ids, backend=backend)


def _cross_entropy(
    rows: int, width: int, columns: int
) -> tuple[Callable[..., mx.array], list]:
    count = (mx.arange(rows) % 3 != 1).astype(mx.float32)
    target = mx.random.randint(0, columns, (rows,))
    shapes = [(rows, width), (columns, width), (columns,)]
    arrays = [2 * mx.random.normal(shape) for shape in shapes]
    fixed = {"target": target, "count": count, "label_smoothing": 0.1}
    return partial(linear_cross_entropy, **fixed), arrays


def _gru_shapes(rows: int, width: int) -> list[tuple[int, ...]]:
    return [(rows, width), *[(rows, 3 * width)] * 2, (3 * width,), (width,)]


def _mean(x: mx.array, *, mask: mx.array, backend: str) -> mx.array:
    return masked_mean(x, mask, backend=backend)


def _with_gradients(
    function: Callable[..., mx.array], arguments: list[mx.array], backend: str
) -> list[mx.array]:
    value = function(*arguments, backend=backend)
    weighting = mx.random.normal(value.shape, key=mx.random.key(3))

    def loss(*arguments: mx.array) -> mx.array:
        value = function(*arguments, backend=backend).astype(mx.float32)
        return (value * weighting).sum()

    argnums = tuple(range(len(arguments)))
    return [value, *mx.grad(loss, argnums=argnums)(*arguments)]


def _agree(ours: mx.array, wanted: mx.array) -> bool:
    limit = 1e-4 if wanted.dtype == mx.float32 else 2e-2
    scale = max(mx.abs(wanted).max().item(), 1e-30)
    return mx.abs(ours - wanted).max().item() <= limit * scale


class _Judge:
    """Runs an operation with a mutant in place of its kernel text."""

    def __init__(self, op: str, part: str, backend: str, monkeypatch) -> None:
        mx.random.seed(1)
        self.backend = backend
        self.kernel = (op, part)
        self.cases = _cases(op)
        self.wanted = [_with_gradients(f, x, "reference") for f, x in self.cases]
        shipped = _backend.source
        self.mutant: Mutant | None = None

        def source(spec: _backend.KernelSpec, backend: str) -> tuple[str, str]:
            body, header = shipped(spec, backend)
            if self.mutant and (spec.op, spec.part) == self.kernel:
                return self.mutant.text, header
            return body, header

        monkeypatch.setattr(_backend, "source", source)

    def is_right(self) -> bool:
        """Whether every case gives the reference's values; faults are raised."""
        _backend.clear_kernel_cache()
        for (function, arguments), wanted in zip(self.cases, self.wanted, strict=True):
            ours = _with_gradients(function, arguments, self.backend)
            if not all(_agree(a, b) for a, b in zip(ours, wanted, strict=True)):
                return False
        return True

    def survives(self, mutant: Mutant) -> bool:
        """Whether a mutant goes unnoticed."""
        self.mutant = mutant
        try:
            return self.is_right()
        except AssertionError:  # KernelFault, and the operations' own checks
            return False


@pytest.fixture
def throwaway_cache(tmp_path, monkeypatch) -> Iterator[None]:
    """Compiled mutants are of no use to anybody later."""
    monkeypatch.setattr(compiler, "kernel_folder", lambda: tmp_path)
    yield
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("throwaway_cache")
@pytest.mark.parametrize("backend", ["metal", "cuda"])
@pytest.mark.parametrize(("op", "part"), _KERNELS)
def test_mutants_of_shipped_kernels_are_caught(
    host: KernelHost, monkeypatch, op: str, part: str, backend: str
) -> None:
    host.options = HostOptions(step_budget=20_000_000)
    monkeypatch.setattr(_backend, "metal_kernel_factory", host.metal_kernel)
    monkeypatch.setattr(_backend, "cuda_kernel_factory", host.cuda_kernel)
    monkeypatch.setattr(_backend, "available", lambda name: True)
    judge = _Judge(op, part, backend, monkeypatch)
    assert judge.is_right()

    spec = _backend.KernelSpec(op, part, (), ())
    planted = mutants(_backend.source(spec, backend)[0])
    survivors = [m for m in planted if judge.survives(m)]
    _backend.clear_kernel_cache()
    where = f"{op}/{part}.{backend}"
    for m in survivors:
        _log.warning("%s:%d survives %s: %s", where, m.line, m.kind, m.shown)
    caught = 1 - len(survivors) / len(planted)
    _log.warning("%s: %.0f %% of %d caught", where, 100 * caught, len(planted))
    assert caught >= _CAUGHT_SHARE

"""Which launch shapes make the kernels fastest on this GPU?

    python benchmarks/ops/tune_kernels.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: the simdgroups (warps), rows and tiles written in ``ops`` are
within a few per cent of the best of their neighbours. Run it on a new kind of GPU and
carry the winners over by hand; the results do not depend on them.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import (
    causal_im2col,
    lattice_readout,
    lattice_scatter,
    masked_mean,
    resolve,
)
from energyflow_mlx.ops._lattice_cells import Tiling

# In the package, the functions of the same names hide these modules.
MEAN = sys.modules["energyflow_mlx.ops.masked_mean"]
COLUMNS = sys.modules["energyflow_mlx.ops.causal_im2col"]
SURFACES = {
    "lattice_scatter": (lattice_scatter, sys.modules[lattice_scatter.__module__]),
    "lattice_readout": (lattice_readout, sys.modules[lattice_readout.__module__]),
}

TILINGS = {
    "lattice_scatter": [(16, 448), (8, 800), (8, 400), (16, 256)],
    "lattice_readout": [(8, 400), (16, 256), (16, 196), (8, 256)],
}


@contextmanager
def constants(module: Any, **values: Any) -> Iterator[None]:
    """Give module constants other values for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def sample(
    op: str,
    shape: str,
    dtype: str,
    choice: str,
    call: Callable[[], Any],
    rounds: int,
    held: int = 0,
) -> timing.Result:
    """Time one launch shape."""
    result = timing.Result(op, choice, shape, dtype)
    calls = {"kernel": call}
    return timing.measure(result, calls, rounds=rounds, ahead=True, held=held)


def tune_mean(
    shape: tuple[int, int, int], dtype: str, rounds: int
) -> Iterator[timing.Result]:
    """Try simdgroups and rows of the masked mean."""
    x = mx.random.normal(shape).astype(timing.DTYPES[dtype])
    g = mx.random.normal((shape[0], shape[2])).astype(x.dtype)
    mask = mx.ones(shape[:2])
    mx.eval(x, g, mask)

    def forward() -> mx.array:
        return masked_mean(x, mask)

    def both() -> mx.array:
        return mx.vjp(lambda x: masked_mean(x, mask), [x], [g])[1]

    for warps in (4, 8, 16):
        with constants(MEAN, _WARPS=warps):
            name = f"warps {warps}"
            yield sample("masked_mean", str(shape), dtype, name, forward, rounds)
    for rows in (16, 32, 64):
        with constants(MEAN, _ROWS=rows):
            name = f"rows {rows} forward+backward"
            yield sample("masked_mean", str(shape), dtype, name, both, rounds, x.nbytes)


def tune_columns(
    shape: tuple[int, int, int], dtype: str, rounds: int
) -> Iterator[timing.Result]:
    """Try simdgroups and rows of the columns."""
    x = mx.random.normal(shape).astype(timing.DTYPES[dtype])
    mx.eval(x)
    g = causal_im2col(x, 3, 2)
    mx.eval(g)
    for warps, rows in ((8, 32), (8, 8), (4, 16), (4, 8), (4, 4)):
        with constants(COLUMNS, _WARPS=warps, _ROWS=rows):
            name = f"warps {warps} rows {rows}"
            call = lambda: causal_im2col(x, 3, 2)  # noqa: E731
            yield sample("im2col", str(shape), dtype, name, call, rounds, g.nbytes)
            call = lambda: mx.vjp(lambda x: causal_im2col(x, 3, 2), [x], [g])[1]  # noqa: E731
            yield sample("col2im", str(shape), dtype, name, call, rounds, g.nbytes)


def tune_surface(
    op: str, flows: int, size: tuple[int, int], mode: str, rounds: int
) -> Iterator[timing.Result]:
    """Try tilings of the scatter or the readout, forward only."""
    position = mx.random.uniform(-1, 1, (64, flows, 3))
    energy, weight = mx.random.normal((64, flows)), mx.random.uniform(shape=(64, flows))
    mx.eval(position, energy, weight)
    form, module = SURFACES[op]
    backend = resolve("auto", op)
    call = lambda: form(position, energy, weight, size, mode)  # noqa: E731
    shape = f"F{flows} {size[0]}x{size[1]} {mode}"
    # Only the scatter slices the flows of a sample.
    slicing = ({"_GROUPS": 256}, {"_GROUPS": 512}) if op == "lattice_scatter" else ({},)
    for (warps, cells), groups in itertools.product(TILINGS[op], slicing):
        tilings = {backend: Tiling(warps, cells)}
        with constants(module, _TILINGS=tilings, **groups):
            name = f"warps {warps} cells {cells}"
            name += "".join(f" groups {number}" for number in groups.values())
            yield sample(op, shape, "float32", name, call, rounds)


def every_case(args: argparse.Namespace) -> Iterator[timing.Result]:
    """Go through all operations."""
    shape, rounds = (32, 64, 96) if args.quick else (1024, 128, 768), args.rounds or 5
    for dtype in ("float32", "bfloat16"):
        yield from tune_mean(shape, dtype, rounds)
        yield from tune_columns(shape, dtype, rounds)
    counts = (300,) if args.quick else (1_000, 10_000)
    for op, flows in itertools.product(TILINGS, counts):
        for mode in ("nearest", "bilinear"):
            yield from tune_surface(op, flows, (28, 28), mode, rounds)


def main() -> None:
    """Print the time of every launch shape and the JSON line."""
    args = timing.arguments(__doc__)
    if not timing.on_gpu():
        print("no GPU kernels run here: nothing to tune")
        return
    results = []
    for r in every_case(args):
        results.append(r)
        middle = timing.candidate_ms(r)
        case = f"{r.op:<15} {r.shape:<24} {r.dtype:<9} {r.mode:<34}"
        print(f"{case} {middle:8.4f} ms", flush=True)
    timing.finish("tune_kernels", results, args.output)


if __name__ == "__main__":
    main()

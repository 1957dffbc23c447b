"""Are the lattice scatter and readout faster as kernels than in plain MLX?

    python benchmarks/ops/bench_lattice_scatter.py [--quick] [--output FILE]

Claim it would refute: on a GPU the scatter forward+backward is 5 times faster than
plain MLX for 64 samples on a 28x28 surface, with 1,000 and with 10,000 flows each.
"""

import itertools
from collections.abc import Callable
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import lattice_readout, lattice_scatter, resolve
from energyflow_mlx.ops.lattice_scatter import (
    lattice_readout_reference,
    lattice_scatter_reference,
)

FORMS = {
    "lattice_scatter": (lattice_scatter, lattice_scatter_reference),
    "lattice_readout": (lattice_readout, lattice_readout_reference),
}


def with_gradient(form: Callable[..., mx.array], size: int, mode: str) -> Any:
    """``(position, energy, weight, g) -> (surface, three gradients)``."""

    def both(
        position: mx.array, energy: mx.array, weight: mx.array, g: mx.array
    ) -> tuple[mx.array, ...]:
        (surface,), gradients = mx.vjp(
            lambda *a: form(*a, size, size, mode), [position, energy, weight], [g]
        )
        return surface, *gradients

    return both


def torch_way(
    arrays: tuple[mx.array, ...], size: int, mode: str
) -> timing.Eager | None:
    """Scatter to the nearest cells in PyTorch, with gradients, if it is installed."""
    torch = timing.torch_or_none()
    if torch is None or mode != "nearest":
        return None
    where, wait = timing.torch_device(torch)
    batch, flows = arrays[1].shape
    position = torch.rand((batch, flows, 3), device=where) * 2 - 1
    energy = torch.randn((batch, flows), device=where, requires_grad=True)
    weight = torch.rand((batch, flows), device=where, requires_grad=True)
    start = torch.arange(batch, device=where)[:, None] * size * size
    g = torch.randn(batch * size * size, device=where)

    def call() -> None:
        energy.grad = weight.grad = None
        index = ((position[..., :2] + 1) / 2 * (size - 1)).round().clamp(0, size - 1)
        cell = (start + index[..., 1] * size + index[..., 0]).long().reshape(-1)
        surface = torch.zeros(batch * size * size, device=where)
        surface.index_add(0, cell, (energy * weight).reshape(-1)).backward(g)

    return timing.Eager(call, wait)


def case(
    op: str, sizes: tuple[int, int, int], mode: str, dtype: str, rounds: int
) -> timing.Result:
    """Check, then time, one operation forward and backward."""
    batch, flows, size = sizes
    shape = f"B{batch} F{flows} {size}x{size} {mode}"
    result = timing.Result(op, "forward+backward", shape, dtype)
    kind = timing.DTYPES[dtype]
    position = mx.random.uniform(-1, 1, (batch, flows, 3))
    energy = mx.random.normal((batch, flows)).astype(kind)
    weight = mx.random.uniform(shape=(batch, flows)).astype(kind)
    g = mx.random.normal((batch, size, size)).astype(kind)
    arrays = (position, energy, weight, g)
    mx.eval(arrays)
    candidate, reference = (with_gradient(f, size, mode) for f in FORMS[op])
    functions = {
        resolve("auto", "lattice_scatter"): mx.compile(candidate),
        "plain MLX compiled": mx.compile(reference),
        "plain MLX": reference,
    }
    expected = reference(*arrays)
    for name, function in functions.items():
        # Sums of hundreds of flows a cell, taken in another order.
        tolerance = 5 * timing.TOLERANCE[dtype]
        timing.require_close(name, function(*arrays), expected, tolerance)
    calls: dict[str, Any] = {n: lambda f=f: f(*arrays) for n, f in functions.items()}
    torch_call = torch_way(arrays, size, mode) if op == "lattice_scatter" else None
    if torch_call is not None:
        calls["PyTorch"] = torch_call
    return timing.measure(result, calls, rounds=rounds, ahead=True)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__, *FORMS)
    if timing.on_gpu() and not args.quick:
        sizes = [(64, 1_000, 28), (64, 10_000, 28), (16, 10_000, 100)]
    else:
        sizes = [(32, 400, 20), (16, 3000, 28)]
    dtypes = args.dtype or ["float32"]
    report = timing.Report("lattice_scatter", args.output)
    for choice in itertools.product(args.only, sizes, ("nearest", "bilinear"), dtypes):
        report.add(case(*choice, timing.rounds_of(args, 9)))
    report.close()


if __name__ == "__main__":
    main()

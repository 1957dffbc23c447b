"""What the benchmarks of the lattice operations share: checking and timing one case."""

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import timing  # isort: skip  before mlx

import mlx.core as mx

from energyflow_mlx.ops import resolve

Form = Callable[..., mx.array]  # of (position, energy, weight or score, size, mode)


class Case(NamedTuple):
    """Flows, surface and format of one measurement."""

    batch: int
    flows: int
    side: int
    mode: str
    dtype: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the surface."""
        return self.side, self.side

    def __str__(self) -> str:
        """Shape, for the table."""
        return f"B{self.batch} F{self.flows} {self.side}x{self.side} {self.mode}"


def every_case(args: argparse.Namespace) -> Iterator[Case]:
    """Go through sizes, modes and dtypes."""
    if timing.on_gpu() and not args.quick:
        sizes = [(64, 1_000, 28), (64, 10_000, 28), (16, 10_000, 100)]
    else:
        sizes = [(32, 400, 20), (16, 3000, 28)]
    dtypes = args.dtype or ["float32"]
    for size, *rest in itertools.product(sizes, ("nearest", "bilinear"), dtypes):
        yield Case(*size, *rest)


def with_gradient(form: Form, case: Case) -> Callable[..., tuple[mx.array, ...]]:
    """``(position, energy, weight, g) -> (surface, three gradients)``."""

    def both(
        position: mx.array, energy: mx.array, weight: mx.array, g: mx.array
    ) -> tuple[mx.array, ...]:
        (surface,), gradients = mx.vjp(
            lambda *a: form(*a, case.size, case.mode), [position, energy, weight], [g]
        )
        return surface, *gradients

    return both


def measure(
    op: str,
    forms: tuple[Form, Form],
    case: Case,
    rounds: int,
    others: dict[str, timing.Eager],
) -> timing.Result:
    """Check, then time, candidate against reference, forward and backward."""
    result = timing.Result(op, "forward+backward", str(case), case.dtype)
    kind = timing.DTYPES[case.dtype]
    flows = (case.batch, case.flows)
    arrays = (
        mx.random.uniform(-1, 1, (*flows, 3)),
        mx.random.normal(flows).astype(kind),
        mx.random.uniform(shape=flows).astype(kind),
        mx.random.normal((case.batch, *case.size)).astype(kind),
    )
    mx.eval(arrays)
    candidate, reference = (with_gradient(form, case) for form in forms)
    functions = {
        resolve("auto", op): mx.compile(candidate),
        "plain MLX compiled": mx.compile(reference),
        "plain MLX": reference,
    }
    expected = reference(*arrays)
    for name, function in functions.items():
        # Sums of hundreds of flows a cell, taken in another order.
        tolerance = 5 * timing.TOLERANCE[case.dtype]
        timing.require_close(name, function(*arrays), expected, tolerance)
    calls: dict[str, Any] = {n: lambda f=f: f(*arrays) for n, f in functions.items()}
    return timing.measure(result, {**calls, **others}, rounds=rounds, ahead=True)

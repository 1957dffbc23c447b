"""Every operation of the device at hand against its reference: errors and times.

Values and gradients on small, awkward shapes are compared with the reference computed
on the CPU; one larger shape is timed against the reference on the same device. What a
device has no form of its own for is not listed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.ops import on_gpu, resolve
from energyflow_mlx.ops.cases import CASES, TOLERANCE, Case, short

_REPEATS = 5


class Checked(NamedTuple):
    """What was found of one operation in one dtype.

    Attributes:
        op: The operation.
        form: What runs here: ``cpu``, ``metal`` or ``cuda``.
        dtype: Name of the dtype.
        cases: Cases that were compared.
        error: Largest error of the case nearest to its tolerance, or beyond it most,
            relative to the largest value; infinite where a shape, a dtype or a number
            is wrong.
        tolerance: That case's.
        worst: Name of that case.
        ms: Milliseconds of value and gradients of the timed case; none without one.
        reference_ms: The same of the reference.
        ok: Whether every case is within its tolerance.
    """

    op: str
    form: str
    dtype: str
    cases: int
    error: float
    tolerance: float
    worst: str
    ms: float | None
    reference_ms: float | None
    ok: bool


def device_dtypes() -> list[mx.Dtype]:
    """Dtypes that the device is meant to run; a CPU multiplies float32 alone well."""
    return list(TOLERANCE) if on_gpu() else [mx.float32]


def check_operations(
    tell: Callable[[str], None] = lambda op: None, seed: int = 0
) -> Iterator[Checked]:
    """Check every operation that has a form of its own here, one dtype after the other.

    Args:
        tell: Called with the name of each operation before its check.
        seed: Of the inputs.
    """
    mx.random.seed(seed)
    for cases_of in CASES.values():
        groups: dict[tuple[str, mx.Dtype], list[Case]] = {}
        for case in cases_of(device_dtypes()):
            groups.setdefault((case.op, case.dtype), []).append(case)
        for (op, _), cases in groups.items():
            form = resolve("auto", op)
            if form == "reference":
                continue
            tell(op)
            yield _check(op, form, cases)


def _check(op: str, form: str, cases: Sequence[Case]) -> Checked:
    """Compare the small cases of one operation and dtype, time the large one."""
    small = [case for case in cases if not case.is_large]
    found = [_error(case, form) for case in small]
    shares = [e / case.tolerance for (e, _), case in zip(found, small, strict=True)]
    worst = int(np.argmax(shares))
    (error, why), case = found[worst], small[worst]
    large = [case for case in cases if case.is_large]
    ok = shares[worst] <= 1.0
    ms, reference_ms = _times(large[0], form) if large and ok else (None, None)
    return Checked(
        op=op,
        form=form,
        dtype=short(case.dtype),
        cases=len(small),
        error=error,
        tolerance=case.tolerance,
        worst=f"{case.name}{why}",
        ms=ms,
        reference_ms=reference_ms,
        ok=ok,
    )


def _error(case: Case, form: str) -> tuple[float, str]:
    """Error of a case, and why there is no number where the kernel does not run.

    A kernel that a device's compiler refuses is a finding, not the end of the check.
    """
    expected = on_cpu(case.call)
    try:
        actual = case.call(form)
        mx.eval(actual)
    except RuntimeError as error:
        return float("inf"), f": {str(error).strip().splitlines()[0]}"
    return relative_errors(actual, expected), ""


def relative_errors(actual: list[mx.array], expected: list[mx.array]) -> float:
    """Largest error of several results, relative to the largest value of each.

    Args:
        actual: What is judged.
        expected: What it must be, in the same order, shapes and dtypes.

    Returns:
        The error; infinite where a shape or dtype differs or a number is not finite.
    """
    worst = 0.0
    for a, b in zip(actual, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        found, wanted = (np.array(v.astype(mx.float32)) for v in (a, b))
        if not np.isfinite(found).all():
            return float("inf")
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
        worst = max(worst, float(np.abs(found - wanted).max(initial=0.0)) / scale)
    return worst


def on_cpu(call: Callable[[str], list[mx.array]]) -> list[mx.array]:
    """The reference with everything in it on the CPU."""
    with mx.stream(mx.cpu):
        result = call("reference")
        mx.eval(result)
    return result


def _times(case: Case, form: str) -> tuple[float, float]:
    """Median milliseconds of the form and of the reference, taking turns."""
    taken: dict[str, list[float]] = {form: [], "reference": []}
    for _ in range(_REPEATS + 1):
        for backend, times in taken.items():
            start = time.perf_counter()
            mx.eval(case.call(backend))
            times.append((time.perf_counter() - start) * 1e3)
    # The first turn compiles.
    own, reference = (float(np.median(times[1:])) for times in taken.values())
    return own, reference

"""Do the CUDA kernels on a real GPU compute what their references do?

    python benchmarks/h200_checks.py SECTION FILE

One section of the checks that ``h200_kernels.py`` runs, each in a process of its own.
Claims it would refute: values and gradients of every kernel equal the reference
computed on the CPU (float32 within 1e-5, float16 2e-3, bfloat16 1.6e-2, relative to the
largest value), equal input gives equal bits, ``mx.compile`` and ``mx.checkpoint``
change nothing, and ``mx.vmap`` refuses a kernel.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from energyflow_mlx import ops
from energyflow_mlx.ops.cases import CASES, TOLERANCE, pulled_back, short
from energyflow_mlx.runtime.kernel_check import on_cpu, relative_errors

Check = dict[str, Any]
Operation = Callable[..., mx.array]  # of arrays and `backend`


def compare(
    name: str, actual: list[mx.array], expected: list[mx.array], tolerance: float
) -> Check:
    """Take the largest error of two results, relative to the largest expected value."""
    error = min(relative_errors(actual, expected), 9e99)  # JSON has no infinity
    return {
        "case": name,
        "error": error,
        "tolerance": tolerance,
        "ok": error <= tolerance,
    }


def same_bits(name: str, call: Callable[[], list[mx.array]]) -> Check:
    """Say whether two runs of a call agree down to the bits."""
    runs = [
        [np.array(v.astype(mx.float32)).tobytes() for v in call()] for _ in range(2)
    ]
    return {"case": f"{name} same bits twice", "error": 0.0, "ok": runs[0] == runs[1]}


def check(
    name: str, call: Callable[[str], list[mx.array]], limit: float
) -> Iterator[Check]:
    """Compare value and gradients with the reference on the CPU and with themselves."""
    yield compare(name, call("cuda"), on_cpu(call), limit)
    yield same_bits(name, lambda: call("cuda"))


def check_cases(section: str) -> Iterator[Check]:
    """Check the cases of a section, large ones too."""
    for case in CASES[section](list(TOLERANCE)):
        name = f"{case.op} {short(case.dtype)} {case.name}"
        yield from check(name, case.call, case.tolerance)


def check_linear() -> Iterator[Check]:
    """Check the linear layer's gradients against float32 on the CPU."""
    for dtype, rows in itertools.product(TOLERANCE, (1, 77, 12288)):
        x = mx.random.normal((rows, 384)).astype(dtype)
        weight = (0.05 * mx.random.normal((512, 384))).astype(dtype)
        arrays = [x, weight, mx.random.normal((512,)).astype(dtype)]
        g = mx.random.normal((rows, 512)).astype(dtype)
        mx.eval(arrays, g)
        (y,), gradients = mx.vjp(ops.linear, arrays, [g])
        mx.eval(y, gradients)

        def plain(
            backend: str, arrays: list[mx.array] = arrays, g: mx.array = g
        ) -> list[mx.array]:
            wide = [a.astype(mx.float32) for a in arrays]
            (y,), gradients = mx.vjp(ops.linear, wide, [g.astype(mx.float32)])
            return [a.astype(g.dtype) for a in (y, *gradients)]

        # Float32 products may run in TF32.
        limit = 5e-3 if dtype == mx.float32 else 4 * TOLERANCE[dtype]
        yield compare(f"{short(dtype)} {rows}", [y, *gradients], on_cpu(plain), limit)


def check_lattice() -> Iterator[Check]:
    """Check scatter and readout, of energies in other dtypes than the weights too."""
    yield from check_cases("lattice")
    # MLX finds compiled kernels by name: those of other dtypes must not be taken.
    forms = {"scatter": ops.lattice_scatter, "readout": ops.lattice_readout}
    for (op, form), kind in itertools.product(forms.items(), TOLERANCE):
        position = mx.random.uniform(-1, 1, (1, 20_000, 3)).astype(kind)
        energy = mx.random.normal((1, 20_000)).astype(kind)
        weight = mx.random.uniform(shape=(1, 20_000))
        g = mx.random.normal((1, 28, 28)).astype(kind)
        surface = partial(form, size=(28, 28), mode="nearest")
        call = pulled_back(surface, [position, energy, weight], g)
        yield from check(f"{op} of {kind} and float32", call, 2e-2)


def check_transforms() -> Iterator[Check]:
    """Check kernels inside compile, checkpoint and vmap."""
    mask = (mx.random.uniform(shape=(4, 6)) > 0.4).astype(mx.float32)
    flows = {"energy": mx.random.normal((4, 6)), "size": (5, 4), "mode": "bilinear"}
    weight = mx.random.uniform(shape=(4, 6))
    alive = mx.random.bernoulli(0.7, (4, 6))
    value = mx.random.normal((4, 6, 2))
    functions = {
        "masked_mean": partial(ops.masked_mean, mask=mask),
        "causal_im2col": partial(ops.causal_im2col, kernel_size=3, dilation=2),
        "gelu": ops.gelu,
        "lattice_scatter": partial(ops.lattice_scatter, weight=weight, **flows),
        "lattice_readout": partial(ops.lattice_readout, score=weight, **flows),
        "field_write": partial(ops.field_write, value=value, alive=alive, cells=4),
        "field_read": _read_what_is_written,
    }
    for op, function in functions.items():
        yield from _transformed(op, function)


def _read_what_is_written(x: mx.array, backend: str) -> mx.array:
    everyone = mx.ones(x.shape[:2], mx.bool_)
    field = ops.field_write(x, x, everyone, 4, backend=backend)
    return ops.field_read(field, x, everyone, backend=backend)


def _transformed(op: str, function: Operation) -> Iterator[Check]:
    def loss(x: mx.array, backend: str = "cuda") -> mx.array:
        return (function(x, backend=backend) ** 2).sum()

    def checkpointed(x: mx.array) -> mx.array:
        return (mx.checkpoint(partial(function, backend="cuda"))(x) ** 2).sum()

    many = mx.random.uniform(-1, 1, (3, 4, 6, 3))
    expected = mx.grad(lambda x: loss(x, "reference"))(many[0])
    first = {
        "compile(grad)": mx.compile(mx.grad(loss)),
        "grad(checkpoint)": mx.grad(checkpointed),
    }
    for name, transformed in first.items():
        yield compare(f"{op} {name}", [transformed(many[0])], [expected], 2e-5)
    mapped = {
        "vmap(grad)": mx.vmap(mx.grad(loss)),
        "grad(vmap)": mx.grad(lambda x: mx.vmap(loss)(x).sum()),
    }
    for name, transformed in mapped.items():
        yield refused(f"{op} {name} is refused", transformed, many)


def refused(name: str, function: Callable[..., mx.array], x: mx.array) -> Check:
    """Say whether mapping over a kernel raises, as MLX cannot do it."""
    try:
        mx.eval(function(x))
    except ValueError as error:
        return {"case": name, "error": 0.0, "ok": "vmap" in str(error)}
    return {"case": name, "error": 9e99, "ok": False}


# Those with a CUDA kernel.
_WITH_CASES = (
    *("masked_mean", "causal_im2col", "gelu", "gru_blend", "embedding"),
    *("linear_cross_entropy", "layer_norm", "field"),
)
SECTIONS: dict[str, Callable[[], Iterator[Check]]] = {
    name: partial(check_cases, name) for name in _WITH_CASES
} | {
    "linear": check_linear,
    "lattice": check_lattice,
    "transforms": check_transforms,
}


def main() -> None:
    """Run a section of checks in this process and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("output", type=Path, help="where the checks go, as JSON")
    args = parser.parse_args()
    if not mx.cuda.is_available():
        raise SystemExit("this MLX has no CUDA back end")
    mx.random.seed(0)
    checks = []
    for result in SECTIONS[args.section]():
        checks.append(result)
        # After every check, so that a section stopped for time still counts.
        args.output.write_text(json.dumps({"checks": checks}), encoding="utf-8")


if __name__ == "__main__":
    main()

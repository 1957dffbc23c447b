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
from typing import Any, get_args

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np

from energyflow_mlx import ops
from energyflow_mlx.ops.gelu import Form

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
DTYPES = {name: getattr(mx, name) for name in TOLERANCE}

Check = dict[str, Any]
Call = Callable[[str], list[mx.array]]  # a function of the backend
Operation = Callable[..., mx.array]  # of arrays and `backend`


def compare(
    name: str, actual: list[mx.array], expected: list[mx.array], tolerance: float
) -> Check:
    """Take the largest error of two results, relative to the largest expected value."""
    worst = 0.0
    for a, b in zip(actual, expected, strict=True):
        same_form = a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.array(v.astype(mx.float32)) for v in (a, b))
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        worst = max(worst, float(error) if same_form and np.isfinite(error) else 9e99)
    return {
        "case": name,
        "error": worst,
        "tolerance": tolerance,
        "ok": worst <= tolerance,
    }


def same_bits(name: str, call: Callable[[], list[mx.array]]) -> Check:
    """Say whether two runs of a call agree down to the bits."""
    runs = [
        [np.array(v.astype(mx.float32)).tobytes() for v in call()] for _ in range(2)
    ]
    return {"case": f"{name} same bits twice", "error": 0.0, "ok": runs[0] == runs[1]}


def on_cpu(call: Callable[[], list[mx.array]]) -> list[mx.array]:
    """Run a call with everything in it on the CPU."""
    with mx.stream(mx.cpu):
        result = call()
        mx.eval(result)
    return result


def check(
    name: str, function: Operation, arrays: list[mx.array], g: mx.array, limit: float
) -> Iterator[Check]:
    """Compare value and gradients with the reference on the CPU and with themselves."""
    mx.eval(arrays, g)

    def both(backend: str) -> list[mx.array]:
        (y,), gradients = mx.vjp(partial(function, backend=backend), arrays, [g])
        return [y, *gradients]

    yield compare(name, both("cuda"), on_cpu(lambda: both("reference")), limit)
    yield same_bits(name, lambda: both("cuda"))


def check_masked_mean() -> Iterator[Check]:
    """Check the kernels of the masked mean."""
    shapes = [
        (2, 9, 33),
        (1, 1, 1),
        (3, 5, 31),
        (1, 3, 300),
        (64, 128, 768),
        (7, 70, 8),
    ]
    for (name, dtype), (batch, length, width) in itertools.product(
        DTYPES.items(), shapes
    ):
        x = mx.random.normal((batch + 1, length, width)).astype(dtype)[1:]
        g = mx.random.normal((batch, width)).astype(dtype)
        mask = (mx.random.uniform(shape=(batch, length)) > 0.4).astype(mx.float32)
        if batch > 1:
            mask = mx.where(mx.arange(batch)[:, None] == 0, 0.0, mask)
        mean = partial(ops.masked_mean, mask=mask)
        yield from check(
            f"{name} {batch}x{length}x{width}", mean, [x], g, TOLERANCE[name]
        )


def check_causal_im2col() -> Iterator[Check]:
    """Check columns, their adjoint and the convolution."""
    cases = [
        (2, 9, 33, 3, 2),
        (1, 1, 3, 3, 1),
        (2, 2, 8, 3, 1),
        (1, 5, 4, 5, 8),
        (64, 128, 384, 3, 4),
    ]
    for (name, dtype), (batch, length, channels, taps, dilation) in itertools.product(
        DTYPES.items(), cases
    ):
        x = mx.random.normal((batch + 1, length, channels)).astype(dtype)[1:]
        g = mx.random.normal((batch, length, taps * channels)).astype(dtype)
        columns = partial(ops.causal_im2col, kernel_size=taps, dilation=dilation)
        case = f"{name} {batch}x{length}x{channels} K{taps} dilation {dilation}"
        yield from check(case, columns, [x], g, TOLERANCE[name])

    x, g = mx.random.normal((4, 40, 64)), mx.random.normal((4, 40, 48))
    weight, bias = mx.random.normal((48, 3, 64)) * 0.1, mx.random.normal((48,))
    convolve = partial(ops.causal_conv1d, dilation=4)
    # The products may run in TF32.
    yield from check("convolution float32", convolve, [x, weight, bias], g, 3e-3)


def check_gelu() -> Iterator[Check]:
    """Check both forms of GELU."""
    shapes = [(1,), (3, 5), (7, 1024), (1100, 33)]
    for form, (name, dtype), shape in itertools.product(
        get_args(Form), DTYPES.items(), shapes
    ):
        x = 3 * mx.random.normal((shape[0] + 1, *shape[1:])).astype(dtype)[1:]
        g = mx.random.normal(shape).astype(dtype)
        gelu = partial(ops.gelu, form=form)
        yield from check(f"{form} {name} {shape}", gelu, [x], g, TOLERANCE[name])


def check_gru_blend() -> Iterator[Check]:
    """Check the blend of a GRU."""
    shapes = [(1, 1), (3, 33), (70, 8), (33, 136), (2000, 300)]
    for (name, dtype), (rows, width) in itertools.product(DTYPES.items(), shapes):
        gates = (rows, 3 * width)
        shapes_of = [(rows, width), gates, gates, (3 * width,), (width,)]
        arrays = [0.7 * mx.random.normal(s).astype(dtype) for s in shapes_of]
        g = mx.random.normal((rows, width)).astype(dtype)
        case = f"{name} {rows}x{width}"
        yield from check(case, ops.gru_blend, arrays, g, TOLERANCE[name])


def check_embedding() -> Iterator[Check]:
    """Check rows of a table and the sums of its segments."""
    sizes = [(1, 1, 1), (5, 3, 9), (7, 16, 200), (300, 33, 5000), (6585, 384, 12288)]
    formats = [(t, r) for t in DTYPES for r in DTYPES if "float32" in (t, r) or t == r]
    for (table_name, name), (rows, width, count) in itertools.product(formats, sizes):
        table = mx.random.normal((rows + 1, width)).astype(DTYPES[table_name])[1:]
        ids = (rows * mx.random.uniform(shape=(count,)) ** 3).astype(mx.int32)
        ids = mx.where(mx.random.uniform(shape=(count,)) < 0.4, 0, ids)
        g = mx.random.normal((count, width)).astype(DTYPES[name])
        limit = max(TOLERANCE[table_name], TOLERANCE[name])
        look_up = partial(_look_up, ids=ids, dtype=DTYPES[name])
        case = f"{name} rows of {table_name} {rows}x{width} N{count}"
        yield from check(case, look_up, [table], g, limit)


def _look_up(table: mx.array, ids: mx.array, dtype: mx.Dtype, backend: str) -> mx.array:
    return ops.embedding(table, ids, dtype=dtype, backend=backend)


def check_linear_cross_entropy() -> Iterator[Check]:
    """Check sums and gradients over a vocabulary, padded and whole."""
    sizes = [(1, 1, 2), (5, 3, 7), (70, 33, 2500), (700, 384, 6585)]
    for (name, dtype), (rows, width, vocabulary), smoothing in itertools.product(
        DTYPES.items(), sizes, (0.0, 0.1)
    ):
        h = mx.random.normal((rows, width)).astype(dtype)
        weight = 0.1 * mx.random.normal((vocabulary, width))
        bias, lowered = (mx.random.normal((vocabulary,)) for _ in range(2))
        target = mx.random.randint(0, vocabulary, (rows,))
        count = (mx.random.uniform(shape=(rows,)) > 0.3).astype(mx.float32)
        total = partial(
            ops.linear_cross_entropy,
            target=target,
            count=count,
            lowered=lowered,
            label_smoothing=smoothing,
        )
        # Slopes are rounded to the format of h; float32 products may run in TF32.
        limit = 5e-3 if name == "float32" else 2 * TOLERANCE[name]
        case = f"{name} {rows}x{width} V{vocabulary} smoothing {smoothing}"
        yield from check(case, total, [h, weight, bias], mx.array(1.0), limit)


def check_layer_norm() -> Iterator[Check]:
    """Check layer norm, its weights' gradients included."""
    shapes = [(1, 4), (5, 33), (77, 384), (12288, 384), (33, 2048)]
    for (name, dtype), (rows, width) in itertools.product(DTYPES.items(), shapes):
        x, g = (mx.random.normal((rows + 1, width)).astype(dtype)[1:] for _ in range(2))
        arrays = [x, *(mx.random.normal((width,)).astype(dtype) for _ in range(2))]
        # Sums of thousands of rows, taken in another order than on the CPU.
        limit = 1e-4 if name == "float32" else 4 * TOLERANCE[name]
        norm = partial(_norm, eps=1e-5)
        yield from check(f"{name} {rows}x{width}", norm, arrays, g, limit)


def _norm(
    x: mx.array, weight: mx.array, bias: mx.array, eps: float, backend: str
) -> mx.array:
    return ops.layer_norm(x, weight, bias, eps, backend=backend)


def check_linear() -> Iterator[Check]:
    """Check the linear layer's gradients against float32 on the CPU."""
    for (name, dtype), rows in itertools.product(DTYPES.items(), (1, 77, 12288)):
        x = mx.random.normal((rows, 384)).astype(dtype)
        weight = (0.05 * mx.random.normal((512, 384))).astype(dtype)
        arrays = [x, weight, mx.random.normal((512,)).astype(dtype)]
        g = mx.random.normal((rows, 512)).astype(dtype)
        mx.eval(arrays, g)
        (y,), gradients = mx.vjp(ops.linear, arrays, [g])
        mx.eval(y, gradients)

        def plain(arrays: list[mx.array] = arrays, g: mx.array = g) -> list[mx.array]:
            wide = [a.astype(mx.float32) for a in arrays]
            (y,), gradients = mx.vjp(ops.linear, wide, [g.astype(mx.float32)])
            return [a.astype(g.dtype) for a in (y, *gradients)]

        # Float32 products may run in TF32.
        limit = 5e-3 if name == "float32" else 4 * TOLERANCE[name]
        yield compare(f"{name} {rows}", [y, *gradients], on_cpu(plain), limit)


def check_lattice() -> Iterator[Check]:
    """Check scatter and readout."""
    cases = [
        (2, 300, (6, 7)),
        (1, 1, (1, 1)),
        (2, 40, (1, 9)),
        (3, 2000, (33, 31)),
        (1, 20_000, (28, 28)),
    ]
    forms = {"scatter": ops.lattice_scatter, "readout": ops.lattice_readout}
    for (op, form), mode, (name, dtype), case in itertools.product(
        forms.items(), ("nearest", "bilinear"), DTYPES.items(), cases
    ):
        if name != "float32" and case is not cases[0]:
            continue
        batch, flows, size = case
        position = mx.random.uniform(-1.2, 1.2, (batch + 1, flows, 3))[1:]
        energy = mx.random.normal((batch, flows)).astype(dtype)
        weight = mx.random.uniform(shape=(batch, flows)).astype(dtype)
        g = mx.random.normal((batch, *size)).astype(dtype)
        # Sums of tens of flows a cell, taken in another order than on the CPU.
        slack = max(1.0, flows / (size[0] * size[1]) / 10)
        title = f"{op} {mode} {name} B{batch} F{flows} {size[0]}x{size[1]}"
        surface = partial(form, size=size, mode=mode)
        arrays = [position, energy, weight]
        yield from check(title, surface, arrays, g, TOLERANCE[name] * slack)
    # MLX finds compiled kernels by name: those of other dtypes must not be taken.
    for (op, form), kind in itertools.product(forms.items(), DTYPES.values()):
        position = mx.random.uniform(-1, 1, (1, 20_000, 3)).astype(kind)
        energy = mx.random.normal((1, 20_000)).astype(kind)
        weight = mx.random.uniform(shape=(1, 20_000))
        g = mx.random.normal((1, 28, 28)).astype(kind)
        surface = partial(form, size=(28, 28), mode="nearest")
        title = f"{op} of {kind} and float32"
        yield from check(title, surface, [position, energy, weight], g, 2e-2)


def check_transforms() -> Iterator[Check]:
    """Check kernels inside compile, checkpoint and vmap."""
    mask = (mx.random.uniform(shape=(4, 6)) > 0.4).astype(mx.float32)
    flows = {"energy": mx.random.normal((4, 6)), "size": (5, 4), "mode": "bilinear"}
    weight = mx.random.uniform(shape=(4, 6))
    functions = {
        "masked_mean": partial(ops.masked_mean, mask=mask),
        "causal_im2col": partial(ops.causal_im2col, kernel_size=3, dilation=2),
        "gelu": ops.gelu,
        "lattice_scatter": partial(ops.lattice_scatter, weight=weight, **flows),
        "lattice_readout": partial(ops.lattice_readout, score=weight, **flows),
    }
    for op, function in functions.items():
        yield from _transformed(op, function)


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


SECTIONS = {
    "masked_mean": check_masked_mean,
    "causal_im2col": check_causal_im2col,
    "gelu": check_gelu,
    "gru_blend": check_gru_blend,
    "embedding": check_embedding,
    "linear_cross_entropy": check_linear_cross_entropy,
    "layer_norm": check_layer_norm,
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

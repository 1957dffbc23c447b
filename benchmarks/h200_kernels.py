"""Are the CUDA kernels right on a real GPU, and as fast as they must be?

    python benchmarks/h200_kernels.py FOLDER [--quick] [--seconds N]
        [--only SECTION ...]

Run from the checkout on a machine with an NVIDIA GPU and MLX's CUDA build. Claims it
would refute, for the masked mean, the causal columns and the lattice scatter: values
and gradients of every kernel equal the plain form computed on the CPU (float32 within
1e-5, float16 2e-3, bfloat16 1.6e-2, relative to the largest value), equal input gives
equal bits, ``mx.compile`` and ``mx.checkpoint`` change nothing, ``mx.vmap`` refuses a
kernel, and the speeds that the scripts in ``benchmarks/ops`` state.

Every section is a process of its own with a time limit, so that one failure does not
hide the others. FOLDER gets ``h200_kernels.json`` and ``h200_kernels.log``; the table
is printed. Exit status 1 says that a section failed or a value was out of tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
CORRECTNESS = ("masked_mean", "causal_im2col", "lattice", "transforms")
COLUMNS = "bench_causal_im2col"
# Section: script in benchmarks/ops and its arguments; each takes under a minute.
TIMING = {
    "mean_float32": ("bench_masked_mean", "--dtype", "float32"),
    "mean_half": ("bench_masked_mean", "--dtype", "float16", "bfloat16"),
    "columns": (COLUMNS, "--only", "columns"),
    "convolution_float32": (COLUMNS, "--only", "convolution", "--dtype", "float32"),
    "convolution_bfloat16": (COLUMNS, "--only", "convolution", "--dtype", "bfloat16"),
    "scatter": ("bench_lattice_scatter",),
    "readout": ("bench_lattice_readout",),
    "tuning": ("tune_kernels",),
}
SECONDS = 60  # limit of one timed section
SECONDS_CHECK = 170  # limit of all checks, most of it spent in compilers

# Choosing launch shapes is no claim: `tuning` runs when it is asked for.
PARTS = [*CORRECTNESS, *(name for name in TIMING if name != "tuning")]

Check = dict[str, Any]
Call = Callable[[str], list[Any]]  # a function of the backend


def compare(name: str, actual: Any, expected: Any, tolerance: float) -> Check:
    """Take the largest error of two results, relative to the largest expected value."""
    import mlx.core as mx
    import numpy as np

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


def same_bits(name: str, call: Callable[[], Any]) -> Check:
    """Say whether two runs of a call agree down to the bits."""
    import mlx.core as mx
    import numpy as np

    runs = [
        [np.array(v.astype(mx.float32)).tobytes() for v in call()] for _ in range(2)
    ]
    return {"case": f"{name} same bits twice", "error": 0.0, "ok": runs[0] == runs[1]}


def on_cpu(call: Callable[[], Any]) -> Any:
    """Run a call with everything in it on the CPU."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        result = call()
        mx.eval(result)
    return result


def dtypes() -> dict[str, Any]:
    """Give the dtypes of the kernels by name."""
    import mlx.core as mx

    return {name: getattr(mx, name) for name in TOLERANCE}


def with_gradients(form: Callable[..., Any], arrays: list[Any], g: Any) -> Call:
    """Make a function of the backend: the value and all gradients at a point."""
    import mlx.core as mx

    mx.eval(arrays, g)

    def both(backend: str) -> list[Any]:
        (y,), gradients = mx.vjp(lambda *a: form(*a, backend), arrays, [g])
        return [y, *gradients]

    return both


def check(name: str, both: Call, tolerance: float) -> Iterator[Check]:
    """Compare the kernels with the plain form on the CPU, and with themselves."""
    expected = on_cpu(lambda: both("reference"))
    yield compare(name, both("cuda"), expected, tolerance)
    yield same_bits(name, lambda: both("cuda"))


def masked_mean() -> Iterator[Check]:
    """Check the kernels of the masked mean."""
    import mlx.core as mx

    from energyflow_mlx.ops import masked_mean as pool

    shapes = [
        (2, 9, 33),
        (1, 1, 1),
        (3, 5, 31),
        (1, 3, 300),
        (64, 128, 768),
        (7, 70, 8),
    ]
    for (name, dtype), (batch, length, width) in itertools.product(
        dtypes().items(), shapes
    ):
        x = mx.random.normal((batch + 1, length, width)).astype(dtype)[1:]
        g = mx.random.normal((batch, width)).astype(dtype)
        mask = (mx.random.uniform(shape=(batch, length)) > 0.4).astype(mx.float32)
        if batch > 1:
            mask = mx.where(mx.arange(batch)[:, None] == 0, 0.0, mask)
        both = with_gradients(partial(_pool, pool, mask), [x], g)
        yield from check(f"{name} {batch}x{length}x{width}", both, TOLERANCE[name])


def _pool(pool: Callable[..., Any], mask: Any, x: Any, backend: str) -> Any:
    return pool(x, mask, backend=backend)


def causal_im2col() -> Iterator[Check]:
    """Check columns, their adjoint and the convolution."""
    import mlx.core as mx

    from energyflow_mlx.ops import causal_conv1d
    from energyflow_mlx.ops import causal_im2col as im2col

    cases = [
        (2, 9, 33, 3, 2),
        (1, 1, 3, 3, 1),
        (2, 2, 8, 3, 1),
        (1, 5, 4, 5, 8),
        (64, 128, 384, 3, 4),
    ]
    for (name, dtype), (batch, length, channels, taps, dilation) in itertools.product(
        dtypes().items(), cases
    ):
        x = mx.random.normal((batch + 1, length, channels)).astype(dtype)[1:]
        g = mx.random.normal((batch, length, taps * channels)).astype(dtype)
        both = with_gradients(partial(_columns, im2col, taps, dilation), [x], g)
        case = f"{name} {batch}x{length}x{channels} K{taps} dilation {dilation}"
        yield from check(case, both, TOLERANCE[name])

    x, g = mx.random.normal((4, 40, 64)), mx.random.normal((4, 40, 48))
    weight, bias = mx.random.normal((48, 3, 64)) * 0.1, mx.random.normal((48,))
    both = with_gradients(partial(_convolve, causal_conv1d, 4), [x, weight, bias], g)
    # The products may run in TF32.
    yield from check("convolution float32", both, 3e-3)


def _columns(
    im2col: Callable[..., Any], taps: int, dilation: int, x: Any, backend: str
) -> Any:
    return im2col(x, taps, dilation, backend=backend)


def _convolve(form: Callable[..., Any], dilation: int, *arguments: Any) -> Any:
    *arrays, backend = arguments
    return form(*arrays, dilation, backend=backend)


def lattice() -> Iterator[Check]:
    """Check scatter and readout."""
    import mlx.core as mx

    from energyflow_mlx.ops import lattice_readout, lattice_scatter

    cases = [
        (2, 300, (6, 7)),
        (1, 1, (1, 1)),
        (2, 40, (1, 9)),
        (3, 2000, (33, 31)),
        (1, 20_000, (28, 28)),
    ]
    forms = {"scatter": lattice_scatter, "readout": lattice_readout}
    for (op, form), mode, (name, dtype), case in itertools.product(
        forms.items(), ("nearest", "bilinear"), dtypes().items(), cases
    ):
        if name != "float32" and case is not cases[0]:
            continue
        batch, flows, size = case
        position = mx.random.uniform(-1.2, 1.2, (batch + 1, flows, 3))[1:]
        energy = mx.random.normal((batch, flows)).astype(dtype)
        weight = mx.random.uniform(shape=(batch, flows)).astype(dtype)
        g = mx.random.normal((batch, *size)).astype(dtype)
        surface = partial(_surface, form, (size, mode))
        both = with_gradients(surface, [position, energy, weight], g)
        # Sums of tens of flows a cell, taken in another order than on the CPU.
        slack = max(1.0, flows / (size[0] * size[1]) / 10)
        title = f"{op} {mode} {name} B{batch} F{flows} {size[0]}x{size[1]}"
        yield from check(title, both, TOLERANCE[name] * slack)
    # MLX finds compiled kernels by name: those of other dtypes must not be taken.
    for (op, form), kind in itertools.product(forms.items(), dtypes().values()):
        position = mx.random.uniform(-1, 1, (1, 20_000, 3)).astype(kind)
        energy = mx.random.normal((1, 20_000)).astype(kind)
        weight = mx.random.uniform(shape=(1, 20_000))
        g = mx.random.normal((1, 28, 28)).astype(kind)
        surface = partial(_surface, form, ((28, 28), "nearest"))
        both = with_gradients(surface, [position, energy, weight], g)
        yield from check(f"{op} of {kind} and float32", both, 2e-2)


def _surface(
    form: Callable[..., Any], options: tuple[Any, ...], *arguments: Any
) -> Any:
    *arrays, backend = arguments
    return form(*arrays, *options, backend=backend)


def transforms() -> Iterator[Check]:
    """Check kernels inside compile, checkpoint and vmap."""
    import mlx.core as mx

    from energyflow_mlx.ops import causal_im2col as im2col
    from energyflow_mlx.ops import lattice_readout, lattice_scatter
    from energyflow_mlx.ops import masked_mean as pool

    mask = (mx.random.uniform(shape=(4, 6)) > 0.4).astype(mx.float32)
    others = (mx.random.normal((4, 6)), mx.random.uniform(shape=(4, 6)))
    surface = (*others, (5, 4), "bilinear")
    functions = {
        "masked_mean": lambda x, b: pool(x, mask, backend=b),
        "causal_im2col": lambda x, b: im2col(x, 3, 2, backend=b),
        "lattice_scatter": lambda x, b: lattice_scatter(x, *surface, backend=b),
        "lattice_readout": lambda x, b: lattice_readout(x, *surface, backend=b),
    }
    for op, f in functions.items():
        yield from _transformed(op, f)


def _transformed(op: str, f: Callable[..., Any]) -> Iterator[Check]:
    import mlx.core as mx

    def loss(x: Any, backend: str = "cuda") -> Any:
        return (f(x, backend) ** 2).sum()

    def checkpointed(x: Any) -> Any:
        return (mx.checkpoint(lambda x: f(x, "cuda"))(x) ** 2).sum()

    many = mx.random.uniform(-1, 1, (3, 4, 6, 3))
    expected = mx.grad(lambda x: loss(x, "reference"))(many[0])
    first = {
        "compile(grad)": mx.compile(mx.grad(loss)),
        "grad(checkpoint)": mx.grad(checkpointed),
    }
    for form, function in first.items():
        yield compare(f"{op} {form}", [function(many[0])], [expected], 2e-5)
    mapped = {
        "vmap(grad)": mx.vmap(mx.grad(loss)),
        "grad(vmap)": mx.grad(lambda x: mx.vmap(loss)(x).sum()),
    }
    for form, function in mapped.items():
        yield refused(f"{op} {form} is refused", function, many)


def refused(name: str, function: Callable[..., Any], x: Any) -> Check:
    """Say whether mapping over a kernel raises, as MLX cannot do it."""
    import mlx.core as mx

    try:
        mx.eval(function(x))
    except ValueError as error:
        return {"case": name, "error": 0.0, "ok": "vmap" in str(error)}
    return {"case": name, "error": 9e99, "ok": False}


def run_section(name: str, output: Path) -> None:
    """Run a section of checks in this process and write what it found."""
    import energyflow_mlx  # noqa: F401  # isort: skip  before mlx

    import mlx.core as mx

    if not mx.cuda.is_available():
        raise SystemExit("this MLX has no CUDA back end")
    mx.random.seed(0)
    checks = []
    for result in globals()[name]():
        checks.append(result)
        # After every check, so that a section stopped for time still counts.
        output.write_text(json.dumps({"checks": checks}), encoding="utf-8")


def command(name: str, output: Path, options: tuple[str, ...]) -> list[str]:
    """Give the command line of a section; the options are for timed ones."""
    if name in TIMING:
        script, *choice = TIMING[name]
        path = CHECKOUT / "benchmarks" / "ops" / f"{script}.py"
        line = [sys.executable, str(path), "--output", str(output)]
        return [*line, *choice, *options]
    return [sys.executable, __file__, str(output), "--section", name]


def start(name: str, folder: Path, *options: str) -> tuple[str, Path, Any, Any]:
    """Start a section; its output goes to a log of its own."""
    folder.mkdir(exist_ok=True)
    output, log = folder / f"{name}.json", folder / f"{name}.log"
    python_path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command(name, output, options),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"},
        )
    return name, output, log, process


def finish(section: tuple[str, Path, Any, Any], deadline: float) -> dict[str, Any]:
    """Wait for a section and gather its result, log and exit status."""
    name, output, log, process = section
    begin = time.monotonic()
    try:
        status = process.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = "stopped at its time limit"
    found = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    text = log.read_text(encoding="utf-8", errors="replace")
    seconds = round(time.monotonic() - begin, 1)
    return {"section": name, "status": status, "s": seconds, "log": text, **found}


def run_all(names: list[str], quick: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """Run the checks, then the timed sections.

    What the timed sections compile is compiled beforehand, beside the checks and by
    many processes at once: MLX keeps the compiled kernels in a folder.
    """
    options = ("--quick",) if quick else ()
    timed = [name for name in names if name in TIMING]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin = time.monotonic()
        checks = [start(n, folder) for n in names if n in CORRECTNESS]
        ahead = folder / "ahead"
        ahead_of_time = [
            start(n, ahead, *options, "--check") for n in timed if n != "tuning"
        ]
        for section in checks:
            yield finish(section, begin + SECONDS_CHECK)
        for section in ahead_of_time:
            found = finish(section, begin + SECONDS_CHECK)
            if found["status"] != 0:
                yield {**found, "section": f"{found['section']}, ahead of time"}
        for name in timed:
            limit = min(time.monotonic() + SECONDS, begin + seconds)
            yield finish(start(name, folder, *options), limit)


def show(section: dict[str, Any]) -> bool:
    """Print what a section found; true when nothing failed."""
    name, checks = section["section"], section.get("checks")
    good = section["status"] == 0
    print(f"== {name}: exit {section['status']} after {section['s']} s")
    if checks is not None:
        agree = sum(c["ok"] for c in checks)
        good = good and agree == len(checks)
        worst = max((c["error"] for c in checks), default=0.0)
        print(f"   {agree} of {len(checks)} agree, {worst=:.1e}")
        print("".join(f"   FAILED {c}\n" for c in checks if not c["ok"]), end="")
    if section["status"] != 0 or checks is None:
        lines = [x for x in section["log"].splitlines() if x[:6] != '{"op":']
        print("\n".join(lines[-150:]))
    sys.stdout.flush()
    return good


def main() -> None:
    """Run the sections, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the results go")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=[*CORRECTNESS, *TIMING])
    parser.add_argument("--seconds", type=float, default=600, help="limit in all")
    parser.add_argument("--section", choices=CORRECTNESS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        run_section(args.section, args.folder)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    good, found, logs = True, [], ""
    for section in run_all(args.only or PARTS, args.quick, args.seconds):
        good = show(section) and good
        logs += f"== {section['section']}\n{section.pop('log')}\n"
        found.append(section)
        # After every section, so that a run stopped for time still counts.
        (args.folder / "h200_kernels.log").write_text(logs, encoding="utf-8")
        record = json.dumps({"passed": good, "sections": found})
        (args.folder / "h200_kernels.json").write_text(record + "\n", encoding="utf-8")
    print("everything agrees" if good else "something failed, see above")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""Are the columns as fast as memory, and is the convolution the fastest there is?

    python benchmarks/ops/bench_causal_im2col.py [--quick] [--rounds N] [--output FILE]

Claims it would refute: on a GPU the columns reach 80 % of the copy bandwidth measured
in the same run, and the convolution forward+backward is at least as fast as the best of
``mx.conv1d`` and a sum over taps. On a CPU the convolution forward+backward is 50 times
faster than ``mx.conv1d`` at dilation 2 and 4 and within twice the time of NumPy.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np
import timing

from energyflow_mlx.ops import causal_conv1d, causal_im2col, resolve
from energyflow_mlx.ops.causal_im2col import (
    causal_col2im_reference,
    causal_im2col_reference,
)

TAPS = 3  # of the columns
Convolve = Callable[[mx.array, mx.array, mx.array, int], mx.array]


def delayed(x: mx.array, shift: int) -> mx.array:
    """Move samples ``shift`` steps later and put zeros before them."""
    if shift == 0:
        return x
    batch, length, channels = x.shape
    shift = min(shift, length)
    start = mx.zeros((batch, shift, channels), x.dtype)
    return mx.concatenate([start, x[:, : length - shift]], axis=1)


def by_conv1d(x: mx.array, weight: mx.array, bias: mx.array, dilation: int) -> mx.array:
    """Use MLX's convolution on input padded to the left."""
    reach = (weight.shape[1] - 1) * dilation
    padded = mx.pad(x, [(0, 0), (reach, 0), (0, 0)])
    return mx.conv1d(padded, weight, dilation=dilation) + bias


def by_taps(x: mx.array, weight: mx.array, bias: mx.array, dilation: int) -> mx.array:
    """Add one matrix product per tap over delayed samples."""
    taps = weight.shape[1]
    y = bias
    for k in range(taps):
        y = y + delayed(x, (taps - 1 - k) * dilation) @ weight[:, k].T
    return y


def by_flat_taps(
    x: mx.array, weight: mx.array, bias: mx.array, dilation: int
) -> mx.array:
    """Add one product per tap over slices of one padded, flattened copy."""
    batch, length, channels = x.shape
    out, taps, _ = weight.shape
    reach = (taps - 1) * dilation
    padded = mx.pad(x, [(0, 0), (reach, 0), (0, 0)]).reshape(-1, channels)
    rows = padded.shape[0] - reach
    y = bias
    for k in range(taps):
        y = mx.addmm(y, padded[k * dilation : k * dilation + rows], weight[:, k].T)
    y = mx.pad(y, [(0, reach), (0, 0)])
    return y.reshape(batch, length + reach, out)[:, :length]


def by_columns(
    x: mx.array, weight: mx.array, bias: mx.array, dilation: int
) -> mx.array:
    """Make the columns in plain MLX, then one product."""
    out, taps, _ = weight.shape
    columns = causal_im2col_reference(x, taps, dilation)
    return mx.addmm(bias, columns, weight.reshape(out, -1).T)


def with_gradient(convolve: Convolve, dilation: int) -> Callable[..., Any]:
    """``(x, weight, bias, g) -> (y, gx, gweight, gbias)``."""

    def both(
        x: mx.array, weight: mx.array, bias: mx.array, g: mx.array
    ) -> tuple[mx.array, ...]:
        (y,), gradients = mx.vjp(
            lambda *a: convolve(*a, dilation), [x, weight, bias], [g]
        )
        return y, *gradients

    return both


def numpy_way(
    x: mx.array, weight: mx.array, bias: mx.array, g: mx.array, dilation: int
) -> Callable[[], None]:
    """Do columns, products and gather in NumPy, forward and backward."""
    xn, wn, bn, gn = (np.array(a) for a in (x, weight, bias, g))
    batch, length, channels = xn.shape
    out, taps, _ = wn.shape
    shifts = [(taps - 1 - k) * dilation for k in range(taps)]

    def call() -> None:
        columns = np.zeros((batch, length, taps, channels), np.float32)
        for k, shift in enumerate(shifts):
            columns[:, shift:, k] = xn[:, : length - shift]
        flat, g2 = columns.reshape(-1, taps * channels), gn.reshape(-1, out)
        flat @ wn.reshape(out, -1).T + bn
        g2.T @ flat
        g2.sum(axis=0)
        gcolumns = (g2 @ wn.reshape(out, -1)).reshape(columns.shape)
        gx = np.zeros_like(xn)
        for k, shift in enumerate(shifts):
            gx[:, : length - shift] += gcolumns[:, shift:, k]

    return call


def torch_way(x: mx.array, weight: mx.array, dilation: int) -> timing.Eager | None:
    """Convolve in PyTorch, forward and backward, if it is installed."""
    torch = timing.torch_or_none()
    if torch is None:
        return None
    where, wait = timing.torch_device(torch)
    kind = getattr(torch, str(x.dtype).removeprefix("mlx.core."))
    batch, length, channels = x.shape
    out, taps, _ = weight.shape
    options = {"device": where, "dtype": kind, "requires_grad": True}
    tx = torch.randn((batch, channels, length), **options)
    tw = torch.randn((out, channels, taps), **options)
    g = torch.randn((batch, out, length), device=where, dtype=kind)

    def call() -> None:
        tx.grad = tw.grad = None
        padded = torch.nn.functional.pad(tx, ((taps - 1) * dilation, 0))
        torch.nn.functional.conv1d(padded, tw, dilation=dilation).backward(g)

    return timing.Eager(call, wait)


def column_ways(
    mode: str, dilation: int
) -> tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]:
    """Give kernel and reference of the columns or of their adjoint."""
    if mode == "im2col":
        return (
            lambda x: causal_im2col(x, TAPS, dilation),
            lambda x: causal_im2col_reference(x, TAPS, dilation),
        )
    return (
        lambda g: causal_col2im(g, TAPS, dilation),
        lambda g: causal_col2im_reference(g, TAPS, dilation),
    )


def causal_col2im(columns: mx.array, taps: int, dilation: int) -> mx.array:
    """Sum columns back to samples: the adjoint that the gradient of the columns is."""
    shape = (*columns.shape[:2], columns.shape[2] // taps)
    x = mx.zeros(shape, columns.dtype)
    return mx.vjp(lambda x: causal_im2col(x, taps, dilation), [x], [columns])[1][0]


def columns_case(
    shape: tuple[int, int, int],
    dilation: int,
    dtype: str,
    mode: str,
    copy: float,
    rounds: int,
) -> timing.Result:
    """Check, then time, the columns or their adjoint."""
    name = "B{} L{} C{}".format(*shape) + f" K{TAPS} dilation {dilation}"
    result = timing.Result("causal_im2col", mode, name, dtype)
    batch, length, channels = shape
    width = channels if mode == "im2col" else TAPS * channels
    kind = timing.DTYPES[dtype]
    sets = [mx.random.normal((batch, length, width)).astype(kind) for _ in range(2)]
    mx.eval(sets)
    candidate, reference = column_ways(mode, dilation)
    functions = {
        resolve("auto", "causal_im2col"): mx.compile(candidate),
        "plain MLX compiled": mx.compile(reference),
        "plain MLX": reference,
    }
    expected = [reference(sets[0])]
    for name, function in functions.items():
        actual = [function(sets[0])]
        timing.require_close(name, actual, expected, timing.TOLERANCE[dtype])
    del expected, actual
    turn = itertools.cycle(sets)
    calls = {n: lambda f=f: f(next(turn)) for n, f in functions.items()}
    elements = batch * length * channels
    moved = (1 + TAPS) * elements * kind.size
    calls[timing.COPY] = timing.copy_of(moved)
    held = moved if mode == "im2col" else 2 * elements * kind.size
    timing.measure(result, calls, rounds=rounds, ahead=True, held=held)
    timing.set_bandwidth(result, moved, copy)
    return result


def convolution_case(
    sizes: tuple[int, int, int, int, int],
    dilation: int,
    dtype: str,
    rate: float,
    rounds: int,
) -> timing.Result:
    """Check, then time, the convolution forward and backward."""
    batch, length, channels, out, taps = sizes
    case = f"B{batch} L{length} {channels}->{out} K{taps} dilation {dilation}"
    result = timing.Result("causal_conv1d", "forward+backward", case, dtype)
    kind = timing.DTYPES[dtype]
    x = mx.random.normal((batch, length, channels)).astype(kind)
    weight = (mx.random.normal((out, taps, channels)) * channels**-0.5).astype(kind)
    bias = mx.random.normal((out,)).astype(kind)
    g = mx.random.normal((batch, length, out)).astype(kind)
    arrays = (x, weight, bias, g)
    mx.eval(arrays)
    forms = {
        f"causal_conv1d ({resolve('auto', 'causal_im2col')})": causal_conv1d,
        "mx.conv1d": by_conv1d,
        "sum over taps": by_taps,
        "sum over flat taps": by_flat_taps,
        "plain MLX": by_columns,
    }
    functions = {
        name: mx.compile(with_gradient(form, dilation)) for name, form in forms.items()
    }
    expected = functions["plain MLX"](*arrays)
    # GPUs multiply float32 in TF32, and every way rounds its partial sums elsewhere.
    tolerance = {"float32": 5e-3 if timing.on_gpu() else 1e-4}.get(dtype, 3e-2)
    calls: dict[str, Any] = {}
    for name, f in functions.items():
        timing.require_close(name, f(*arrays), expected, tolerance)
        calls[name] = lambda f=f: f(*arrays)
    if not timing.on_gpu():
        calls["NumPy"] = timing.Eager(numpy_way(*arrays, dilation))
    torch_call = torch_way(x, weight, dilation)
    if torch_call is not None:
        calls["PyTorch"] = torch_call
    held = (x.size + g.size) * kind.size
    timing.measure(result, calls, rounds=rounds, ahead=True, held=held)
    operations = 6 * batch * length * channels * out * taps
    timing.set_flops(result, operations, rate)
    return result


def every_case(
    args: argparse.Namespace, copy: float, rates: dict[str, float]
) -> Iterator[timing.Result]:
    """Go through the parts, shapes and dilations."""
    gpu = timing.on_gpu()
    large = gpu and not args.quick
    rounds = timing.rounds_of(args, 9 if gpu else 5)
    dilations = (1, 2, 4, 8) if gpu else (2, 4)
    for dtype in rates:
        if "columns" in args.only:
            shape = (1024, 128, 768) if large else (32, 128, 256)
            for dilation, mode in itertools.product(dilations, ("im2col", "col2im")):
                yield columns_case(shape, dilation, dtype, mode, copy, rounds)
        if "convolution" in args.only:
            sizes = [(512, 64, 384, 512, 3), (256, 128, 768, 768, 3)]
            small = [(32, 128, 256, 256, 3)]
            for size, dilation in itertools.product(
                sizes if large else small, dilations
            ):
                yield convolution_case(size, dilation, dtype, rates[dtype], rounds)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__, "columns", "convolution")
    gpu = timing.on_gpu()
    large = gpu and not args.quick
    dtypes = args.dtype or (["float32", "bfloat16"] if gpu else ["float32"])
    copy, rates = 0.0, dict.fromkeys(dtypes, 0.0)
    if not args.check:
        copy = timing.copy_bandwidth(2**31 if large else 2**26)
        size = 8192 if large else 1024
        rates = {d: timing.matmul_rate(timing.DTYPES[d], size) for d in dtypes}
    print(f"copy {copy:.0f} GB/s, matmul {rates} GFLOP/s", flush=True)
    report = timing.Report(
        "causal_im2col", args.output, copy_gb_s=round(copy), matmul=rates
    )
    for result in every_case(args, copy, rates):
        report.add(result)
    report.close()


if __name__ == "__main__":
    main()

"""Is the masked mean kernel as fast as memory, and faster than plain MLX?

    python benchmarks/ops/bench_masked_mean.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU the kernel reaches 80 % of the copy bandwidth measured
in the same run and beats the compiled plain form, forward and backward.

Bytes counted: forward reads x once, backward writes its gradient once; the mask and
the pooled rows, under 1 %, are left out. The masks are full, so every row of x is read.
In the case with 70 % real tokens only those count: the kernel skips the others.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import masked_mean, resolve
from energyflow_mlx.ops.masked_mean import masked_mean_reference

# In the package, the function of the same name hides this module.
MEAN = sys.modules["energyflow_mlx.ops.masked_mean"]

Pool = Callable[[mx.array, mx.array], mx.array]
Way = Callable[..., tuple[mx.array, ...]]  # of (x, mask, g)
SETS = 2  # inputs used in turn, so that a cache cannot answer for the memory


def by_matmul(x: mx.array, mask: mx.array) -> mx.array:
    """Take the mean as one batched matrix product."""
    count = mx.maximum(mask.sum(axis=1, keepdims=True), 1.0)
    weight = (mask / count).astype(x.dtype)
    return (weight[:, None, :] @ x)[:, 0]


def with_gradient(pool: Pool) -> Way:
    """``(x, mask, g) -> (pooled, gx)``."""

    def both(x: mx.array, mask: mx.array, g: mx.array) -> tuple[mx.array, mx.array]:
        (y,), (gx,) = mx.vjp(lambda x: pool(x, mask), [x], [g])
        return y, gx

    return both


def backward_kernel(x: mx.array, mask: mx.array, g: mx.array) -> tuple[mx.array]:
    """Run the backward kernel alone; ``x`` plays no part."""
    scale = 1 / mx.maximum(mask.sum(axis=1), 1.0)
    return (MEAN._spread(resolve("auto", "masked_mean"))(g, mask, scale),)


def backward_plain(x: mx.array, mask: mx.array, g: mx.array) -> tuple[mx.array]:
    """Spread the gradient in plain MLX."""
    share = mask / mx.maximum(mask.sum(axis=1, keepdims=True), 1.0)
    return ((g[:, None] * share[..., None]).astype(g.dtype),)


def ways(mode: str) -> dict[str, Way]:
    """Give the candidate and its baselines."""
    name = resolve("auto", "masked_mean")
    if mode == "backward":
        return {
            name: mx.compile(backward_kernel),
            "plain MLX compiled": mx.compile(backward_plain),
        }

    def form(pool: Pool) -> Way:
        if mode == "forward+backward":
            return with_gradient(pool)
        return lambda x, mask, g: (pool(x, mask),)

    return {
        name: mx.compile(form(masked_mean)),
        "plain MLX compiled": mx.compile(form(masked_mean_reference)),
        "plain MLX": form(masked_mean_reference),
        "matmul compiled": mx.compile(form(by_matmul)),
    }


def torch_way(x: mx.array, mask: mx.array, mode: str) -> timing.Eager | None:
    """Take the mean in PyTorch on the same device, if there is one."""
    torch = timing.torch_or_none()
    if torch is None or mode == "backward":
        return None
    where, wait = timing.torch_device(torch)
    kind = getattr(torch, str(x.dtype).removeprefix("mlx.core."))
    gradient = mode == "forward+backward"
    tx = torch.randn(x.shape, device=where, dtype=kind, requires_grad=gradient)
    tm = torch.ones(mask.shape, device=where)

    def call() -> None:
        pooled = (tx * tm[..., None]).float().sum(1) / tm.sum(1, keepdim=True).clamp(1)
        if gradient:
            tx.grad = None
            pooled.to(kind).sum().backward()

    return timing.Eager(call, wait)


def case(
    shape: tuple[int, int, int],
    dtype: str,
    mode: str,
    copy: float,
    rounds: int,
    real: float = 1.0,
) -> timing.Result:
    """Check, then time, one shape with a share of real tokens."""
    name = "B{} L{} D{}".format(*shape) + ("" if real == 1 else f", {real:.0%} real")
    result = timing.Result("masked_mean", mode, name, dtype)
    batch, length, width = shape
    kind = timing.DTYPES[dtype]
    xs = [mx.random.normal(shape).astype(kind) for _ in range(SETS)]
    g = mx.random.normal((batch, width)).astype(kind)
    part = (mx.random.uniform(shape=(batch, length)) < 0.7).astype(mx.float32)
    mask = part if real < 1 else mx.ones((batch, length))
    mx.eval(xs, g, mask, part)
    functions = ways(mode)
    expected = list(functions.values())[1](xs[0], part, g)
    for name, function in functions.items():
        tolerance = timing.TOLERANCE[dtype] * (1 if "matmul" not in name else 5)
        actual = function(xs[0], part, g)
        timing.require_close(f"{name} {shape}", actual, expected, tolerance)
    del expected, actual
    turn = itertools.cycle(xs)
    calls: dict[str, Any] = {
        name: lambda f=f: f(next(turn), mask, g) for name, f in functions.items()
    }
    torch_call = torch_way(xs[0], mask, mode) if real == 1 else None
    if torch_call is not None:
        calls["PyTorch"] = torch_call
    moved = int(xs[0].nbytes * float(mask.mean())) * (1 + (mode == "forward+backward"))
    calls[timing.COPY] = timing.copy_of(moved)
    timing.measure(result, calls, rounds=rounds, ahead=True, held=xs[0].nbytes)
    timing.set_bandwidth(result, moved, copy)
    return result


def every_case(
    large: bool, dtypes: list[str], copy: float, rounds: int
) -> Iterator[timing.Result]:
    """Go through shapes, dtypes and modes."""
    on_kernel = timing.on_gpu()
    modes = ("forward", *(["backward"] if on_kernel else []), "forward+backward")
    shapes = [(1024, 128, 768), (4096, 128, 768)] if large else [(32, 64, 256)]
    for shape, dtype, mode in itertools.product(shapes, dtypes, modes):
        yield case(shape, dtype, mode, copy, rounds)
    for dtype in dtypes:
        yield case(shapes[0], dtype, "forward", copy, rounds, real=0.7)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    dtypes = args.dtype or (list(timing.DTYPES) if timing.on_gpu() else ["float32"])
    rounds = timing.rounds_of(args, 9)
    copy = timing.copy_bandwidth(2**31 if large else 2**26) if rounds else 0.0
    print(f"copy {copy:.0f} GB/s", flush=True)
    report = timing.Report("masked_mean", args.output, copy_gb_s=round(copy))
    for result in every_case(large, dtypes, copy, rounds):
        report.add(result)
    report.close()


if __name__ == "__main__":
    main()

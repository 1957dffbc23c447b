"""Is the masked mean kernel as fast as memory, and faster than plain MLX?

    python benchmarks/ops/bench_masked_mean.py [--quick] [--rounds N] [--output FILE]

Claim it would refute: on a GPU the kernel reaches 80 % of the copy bandwidth measured
in the same run and beats the compiled plain form, forward and backward.
"""

from collections.abc import Callable
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import timing

from energyflow_mlx.ops import masked_mean, resolve
from energyflow_mlx.ops.masked_mean import masked_mean_reference

Pool = Callable[[mx.array, mx.array], mx.array]


def by_matmul(x: mx.array, mask: mx.array) -> mx.array:
    """Take the mean as one batched matrix product."""
    count = mx.maximum(mask.sum(axis=1, keepdims=True), 1.0)
    weight = (mask / count).astype(x.dtype)
    return (weight[:, None, :] @ x)[:, 0]


def with_gradient(pool: Pool) -> Callable[..., Any]:
    """``(x, mask, g) -> (pooled, gx)``."""

    def both(x: mx.array, mask: mx.array, g: mx.array) -> tuple[mx.array, mx.array]:
        (y,), (gx,) = mx.vjp(lambda x: pool(x, mask), [x], [g])
        return y, gx

    return both


def ways(gradient: bool) -> dict[str, Callable[..., Any]]:
    """Give the candidate and its baselines, as functions of ``(x, mask, g)``."""

    def form(pool: Pool) -> Callable[..., Any]:
        return with_gradient(pool) if gradient else lambda x, mask, g: (pool(x, mask),)

    return {
        resolve("auto", "masked_mean"): mx.compile(form(masked_mean)),
        "plain MLX compiled": mx.compile(form(masked_mean_reference)),
        "plain MLX": form(masked_mean_reference),
        "matmul compiled": mx.compile(form(by_matmul)),
    }


def torch_way(x: mx.array, mask: mx.array, gradient: bool) -> Callable[[], Any] | None:
    """Take the mean in PyTorch on the same device, if there is one."""
    torch = timing.torch_or_none()
    if torch is None:
        return None
    where = "cuda" if timing.on_gpu() and torch.cuda.is_available() else "cpu"
    kind = getattr(torch, str(x.dtype).removeprefix("mlx.core."))
    tx = torch.randn(x.shape, device=where, dtype=kind, requires_grad=gradient)
    tm = torch.ones(mask.shape, device=where)

    def call() -> list[mx.array]:
        pooled = (tx * tm[..., None]).float().sum(1) / tm.sum(1, keepdim=True).clamp(1)
        if gradient:
            tx.grad = None
            pooled.to(kind).sum().backward()
        if where == "cuda":
            torch.cuda.synchronize()
        return []

    return call


def case(
    shape: tuple[int, int, int], dtype: str, gradient: bool, copy: float, rounds: int
) -> timing.Result:
    """Check, then time, one shape."""
    batch, length, width = shape
    x = mx.random.normal(shape).astype(timing.DTYPES[dtype])
    g = mx.random.normal((batch, width)).astype(x.dtype)
    mask = mx.ones((batch, length))
    part = (mx.random.uniform(shape=(batch, length)) < 0.7).astype(mx.float32)
    mx.eval(x, g, mask, part)
    functions = ways(gradient)
    expected = functions["plain MLX"](x, part, g)
    for name, function in functions.items():
        tolerance = timing.TOLERANCE[dtype] * (1 if "matmul" not in name else 5)
        actual = function(x, part, g)
        timing.require_close(f"{name} {shape}", actual, expected, tolerance)
    calls = {n: lambda f=f: f(x, mask, g) for n, f in functions.items()}
    torch_call = torch_way(x, mask, gradient)
    if torch_call is not None:
        calls["PyTorch"] = torch_call
    mode = "forward+backward" if gradient else "forward"
    result = timing.Result("masked_mean", mode, f"B{batch} L{length} D{width}", dtype)
    timing.measure(result, calls, rounds=rounds)
    timing.set_bandwidth(result, (2 if gradient else 1) * x.nbytes, copy)
    return result


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    large = timing.on_gpu() and not args.quick
    shapes = [(1024, 128, 768), (512, 64, 384)] if large else [(32, 64, 256)]
    dtypes = list(timing.DTYPES) if timing.on_gpu() else ["float32"]
    copy = timing.copy_bandwidth(2**31 if large else 2**26)
    print(f"copy {copy:.0f} GB/s")
    results = [
        timing.show(case(shape, dtype, gradient, copy, args.rounds or 9))
        for shape in shapes
        for dtype in dtypes
        for gradient in (False, True)
    ]
    timing.finish("masked_mean", results, args.output, copy_gb_s=round(copy))


if __name__ == "__main__":
    main()

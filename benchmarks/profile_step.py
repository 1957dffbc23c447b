"""Where does one training step spend its time?

    python benchmarks/profile_step.py [--objective reconstruction ...] [--batch N ...]
        [--dtype float32] [--candidates N ...] [--full-vocabulary] [--steps N]
        [--text FILE] [--tokenizer FILE] [--output FILE]

Prints the time of a step and of its parts, the peak memory and, on an NVIDIA GPU with
PyTorch at hand, every kernel of the process as the driver's profiler sees it: the
dearest ones, launches a step, and the share of the time in which the device idles. It
measures and claims nothing; ``bench_step.py`` compares.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

try:
    import torch  # its libraries before MLX's, where there are both
except ImportError:
    torch = None

import training_step as ts  # isort: skip  before mlx: it brings the BLAS
import mlx.core as mx  # isort: skip

from energyflow_mlx.runtime import device


def pipelined_ms(step: ts.Step, batches: list[Any]) -> float:
    """Milliseconds a step where the next one is built while the device works."""
    mx.synchronize()
    start, before = time.perf_counter(), None
    for batch in batches:
        loss = step.update(batch)
        step.start(loss)
        if before is not None:
            mx.eval(before)
        before = loss
    mx.eval(before, step.arrays())
    mx.synchronize()
    return 1e3 * (time.perf_counter() - start) / len(batches)


def parts_ms(step: ts.Step, batches: list[Any]) -> dict[str, float]:
    """Milliseconds on the host to build a step, and of a step alone and its parts."""
    built = alone = gradients = 0.0
    for batch in batches:
        mx.synchronize()
        start = time.perf_counter()
        loss = step.update(batch)
        built += time.perf_counter() - start
        mx.eval(loss, step.arrays())
        mx.synchronize()
        alone += time.perf_counter() - start
    for batch in batches[:2]:
        step.gradients(batch)
    for batch in batches:
        mx.synchronize()
        start = time.perf_counter()
        step.gradients(batch)
        mx.synchronize()
        gradients += time.perf_counter() - start
    scale = 1e3 / len(batches)
    return {
        "host builds": built * scale,
        "a step alone": alone * scale,
        "gradients alone": gradients * scale,
    }


def kernels(step: ts.Step, batches: list[Any]) -> dict[str, Any]:
    """Every kernel of some pipelined steps: time, launches, idle share."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        pipelined_ms(step, batches)
        torch.cuda.synchronize()
    spans, total, count = [], defaultdict(float), defaultdict(int)
    for event in prof.profiler.kineto_results.events():
        if str(event.device_type()) != "DeviceType.CUDA":
            continue
        begin, length = event.start_ns(), event.duration_ns()
        spans.append((begin, begin + length))
        name = short(event.name())
        total[name] += length / 1e3
        count[name] += 1
    spans.sort()
    busy, reached = 0, spans[0][0] if spans else 0
    for begin, end in spans:
        busy += max(0, end - max(begin, reached))
        reached = max(reached, end)
    length = reached - spans[0][0] if spans else 1
    steps = len(batches)
    dearest = sorted(total, key=total.__getitem__, reverse=True)
    return {
        "device_ms": busy / 1e6 / steps,
        "span_ms": length / 1e6 / steps,
        "launches": sum(count.values()) / steps,
        "kernels": [
            {"name": n, "us": total[n] / steps, "launches": count[n] / steps}
            for n in dearest[:40]
        ],
    }


def short(name: str) -> str:
    """Kernel name without its template's noise."""
    name = re.sub(
        r"mlx::core::cu::|mlx::core::|\(anonymous namespace\)::|void ", "", name
    )
    return re.sub(r"\s+", " ", name)[:150]


def report(case: ts.Case, data: Any, steps: int, show: int) -> dict[str, Any]:
    """Measure one case and print it."""
    step = ts.Step(case, data)
    batches = step.batches(steps)
    pipelined_ms(step, batches[:6])
    mx.reset_peak_memory()
    found: dict[str, Any] = {
        "case": vars(case),
        "device": device.describe().name,
        "mlx": mx.__version__,
        "step_ms": pipelined_ms(step, batches),
        "parts_ms": parts_ms(step, batches),
        "peak_bytes": mx.get_peak_memory(),
    }
    print(f"{case}\n{found['device']}, MLX {found['mlx']}")
    print(f"a step, pipelined     {found['step_ms']:9.3f} ms")
    for name, ms in found["parts_ms"].items():
        print(f"{name:<21} {ms:9.3f} ms")
    print(f"peak memory           {found['peak_bytes'] / 2**20:9.0f} MiB")
    if torch is not None and torch.cuda.is_available() and mx.cuda.is_available():
        found |= kernels(step, batches)
        # The profiler slows the host down: what counts is the time without it.
        found["idle_share"] = 1 - found["device_ms"] / found["step_ms"]
        print(f"device busy           {found['device_ms']:9.3f} ms a step")
        print(f"device idle           {100 * found['idle_share']:9.1f} %")
        print(f"launches              {found['launches']:9.1f} a step")
        for kernel in found["kernels"][:show]:
            print("{us:9.1f} us {launches:6.1f} x  {name}".format(**kernel))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objective", nargs="+", default=["distillation"])
    parser.add_argument("--batch", nargs="+", type=int, default=[512])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--candidates", nargs="+", type=int, default=[0])
    parser.add_argument("--full-vocabulary", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--show", type=int, default=10, help="kernels in the table")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    full = args.full_vocabulary
    data = ts.Sentences.read(args.text, args.tokenizer).data(full)
    found = []
    choices = itertools.product(args.objective, args.batch, args.candidates)
    for objective, batch, candidates in choices:
        case = ts.Case(objective, batch, args.dtype, candidates, full)
        found.append(report(case, data, args.steps, args.show))
        if args.output:
            args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

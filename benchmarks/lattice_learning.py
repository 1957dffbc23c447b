"""Does the lattice learn to hand a vector through the cube, and do its flows travel?

Autoencodes unit vectors and prints, at intervals, the cosine of output to input on
held-out rows with the statistics of the flows. Run it on a CPU or a GPU:

    python benchmarks/lattice_learning.py --preset debug --vectors FILE.npy --minutes 5

It refutes "the flows learn nothing" when the held-out cosine rises, and "the paths do
not matter" when ``--set motion.freeze=true`` ends lower. The gradient is that of one
graph, whatever ``adjoint.way`` says. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import lattice_presets  # isort: skip  before mlx

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map

from energyflow_mlx.lattice import (
    EnergyLattice,
    displacement_scale,
    exploration_sigma,
)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="debug")
    parser.add_argument(
        "--set", nargs="*", default=[], help="group.key=value overrides"
    )
    parser.add_argument("--vectors", type=Path, required=True, help="[N, E] .npy")
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=0, help="0: until time is up")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-5)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--mse", type=float, default=100.0, help="weight beside 1-cos")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 weights in use")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def cosine(a: mx.array, b: mx.array) -> mx.array:
    """Row-wise cosine."""
    norms = mx.linalg.norm(a, axis=-1) * mx.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / mx.maximum(norms, 1e-12)


def cast(params: Any, dtype: mx.Dtype) -> Any:
    """Copy of the parameters in ``dtype``."""
    return tree_map(lambda a: a.astype(dtype), params)


def make_step(model: EnergyLattice, optimizer: optim.Optimizer, args: Any) -> Any:
    """One compiled training step."""
    dtype = mx.bfloat16 if args.bf16 else mx.float32

    def loss_of(params: Any, v: mx.array, scale: mx.array, sigma: Any, key: Any) -> Any:
        model.update(cast(params, dtype))
        out = model(v, key=key, displacement_scale=scale, noise_sigma=sigma)
        vector = out.vector.astype(mx.float32)
        close = cosine(vector, v).mean()
        loss = 1 - close + args.mse * ((vector - v) ** 2).mean()
        return loss, (close, out.statistics)

    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(v: mx.array, scale: mx.array, sigma: Any, key: mx.array) -> Any:
        params = model.trainable_parameters()
        (loss, extra), grads = mx.value_and_grad(loss_of)(params, v, scale, sigma, key)
        model.update(params)
        grads, norm = optim.clip_grad_norm(grads, args.clip)
        optimizer.update(model, grads)
        return loss, extra, norm

    return step, state


def evaluate(model: EnergyLattice, rows: np.ndarray, batch: int) -> dict[str, float]:
    """Mean cosine and statistics on held-out rows."""
    model.eval()
    closes: list[float] = []
    stats: dict[str, list[float]] = {}
    for at in range(0, len(rows) - batch + 1, batch):
        v = mx.array(rows[at : at + batch])
        out = model(v)
        closes += cosine(out.vector, v).tolist()
        for name, value in out.statistics.items():
            stats.setdefault(name, []).append(value.item())
    model.train()
    means = {name: sum(values) / len(values) for name, values in stats.items()}
    return {"cosine": sum(closes) / len(closes), **means}


def learning_rate(args: Any, start: float, step: int) -> float:
    """Linear warm-up, then a cosine over the time (or the steps) allowed."""
    done = (time.perf_counter() - start) / (60 * args.minutes)
    if args.steps:
        done = step / args.steps
    warm = min(1.0, (step + 1) / args.warmup)
    return args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, done))))


def train(args: Any) -> dict[str, Any]:
    """Train until time is up; returns the record of the run."""
    mx.random.seed(args.seed)
    rng = np.random.default_rng(args.seed)
    rows = np.load(args.vectors).astype(np.float32)
    held, rows = rows[: args.held_out], rows[args.held_out :]
    config = lattice_presets.read_preset(args.preset, args.set)
    model = EnergyLattice(config, rows.shape[1])
    mx.eval(model.parameters())
    optimizer = optim.AdamW(
        args.lr, weight_decay=args.weight_decay, bias_correction=True
    )
    optimizer.init(model.trainable_parameters())
    step, state = make_step(model, optimizer, args)
    count = sum(a.size for _, a in tree_flatten(model.parameters()))
    print(f"{args.preset}: {count:,} parameters, {config.total_steps} steps")
    curve = [{"step": 0, "seconds": 0.0, **evaluate(model, held, args.batch)}]
    print(line(curve[0]), flush=True)
    start = time.perf_counter()
    reported, number, key = start, 0, mx.random.key(args.seed)
    is_noisy = config.noise.sigma > 0
    while True:
        optimizer.learning_rate = learning_rate(args, start, number)
        picked = rng.integers(0, len(rows), args.batch)
        key, fresh = mx.random.split(key)
        sigma = mx.array(exploration_sigma(config, number)) if is_noisy else 0.0
        scale = mx.array(displacement_scale(config, number))
        loss, _, norm = step(mx.array(rows[picked]), scale, sigma, fresh)
        mx.eval(loss, norm, state)
        number += 1
        now = time.perf_counter()
        over = number == args.steps or now - start > 60 * args.minutes
        if over or now - reported > args.every:
            record = {"step": number, "seconds": now - start, "loss": loss.item()}
            record |= {"grad_norm": norm.item()} | evaluate(model, held, args.batch)
            curve.append(record)
            print(line(record), flush=True)
            reported = time.perf_counter()
        if over:
            break
    arguments = {name: str(value) for name, value in vars(args).items()}
    return {
        "benchmark": "lattice_learning",
        "arguments": arguments,
        "parameters": count,
        "device": str(mx.default_device()),
        "mlx": mx.__version__,
        "steps_per_second": number / (time.perf_counter() - start),
        "peak_bytes": mx.get_peak_memory(),
        "curve": curve,
    }


def line(record: dict[str, float]) -> str:
    """One line of the report."""
    return "  ".join(f"{name} {value:.4g}" for name, value in record.items())


def main() -> None:
    """Run and report."""
    args = parse()
    record = train(args)
    text = json.dumps(record)
    if args.out:
        args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()

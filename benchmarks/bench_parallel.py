"""Do several processes train as many times faster as there are of them?

    python benchmarks/bench_parallel.py [--backend ring|nccl] [--processes N] [...]

Claim it would refute: with N processes of the same batch each, an update takes hardly
longer than that of one process alone (two GPUs: at least 1.8 times the sentences a
second at batch 512). The default model is trained, distillation (A) and reconstruction
(B) apart, through the trainer's own loop. The process times of "alone" and "together"
are taken in turn in the same processes, and updates of both are compared first: N
processes must give the losses of one with the N-fold batch. Also: the rate at which
``all_sum`` moves messages of several sizes.

It starts its own processes, with the environment that ``mlx.launch`` gives. The
defaults are for a CPU (one BLAS thread for each process); for two GPUs:

    python benchmarks/bench_parallel.py --backend nccl --batch 512 --steps 200 \
        --dtype bfloat16 --largest 268435456 --output FILE
"""

import argparse
import contextlib
import faulthandler
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import numpy as np
from rich.console import Console

from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.config import (
    Config,
    DistillationConfig,
    ReconstructionConfig,
    objectives_type,
)
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime import device, distributed
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.loop import Trainer

VOCABULARY, TEACHER, BUCKET = 6585, 384, 24
WORK = {
    "A": {"distillation": DistillationConfig()},
    "B": {"reconstruction": ReconstructionConfig()},
}
CHECKED = 4  # updates whose losses are compared
MESSAGES = [2**n for n in range(12, 29, 2)]  # bytes, 4 KiB to 256 MiB


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", choices=("ring", "nccl"), default="ring")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="of each process")
    parser.add_argument("--steps", type=int, default=2, help="updates of one sample")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--largest", type=int, default=2**24, help="bytes of a message")
    parser.add_argument("--limit", type=int, default=500, help="seconds; then it ends")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# -- starting the processes ---------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def environments(backend: str, size: int, folder: Path) -> Iterator[dict[str, str]]:
    """What ``mlx.launch`` tells each process about the others."""
    ports = free_ports(size)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    for rank in range(size):
        own = {**os.environ, "MLX_RANK": str(rank)}
        if backend == "ring":
            yield own | {"MLX_HOSTFILE": str(hosts), "OPENBLAS_NUM_THREADS": "1"}
        else:
            yield own | {
                "NCCL_HOST_IP": "127.0.0.1",
                "NCCL_PORT": str(ports[0]),
                "MLX_WORLD_SIZE": str(size),
                "CUDA_VISIBLE_DEVICES": str(rank),
            }


def launch(size: int, backend: str) -> int:
    """Start the processes and wait; the first one to fail ends the others."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--worker", "--folder", folder]
        command = [sys.executable, __file__, *sys.argv[1:], *own]
        processes = [
            subprocess.Popen(command, env=environment)
            for environment in environments(backend, size, Path(folder))
        ]
        while any(p.poll() is None for p in processes):
            if any(p.poll() for p in processes):
                for process in processes:
                    process.terminate()
            time.sleep(0.1)
    return max(abs(process.returncode) for process in processes)


# -- what is trained ----------------------------------------------------------------


def make_data(sentences: int) -> RunData:
    """Sentences of 14 tokens on average, tokens with the frequencies of real text."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(14, 3, sentences), 4, BUCKET).astype(int)
    frequency = 1.0 / np.arange(1, VOCABULARY - 3)
    draw = rng.choice(len(frequency), lengths.sum(), p=frequency / frequency.sum())
    ids = np.split(draw.astype(np.int32) + 4, np.cumsum(lengths)[:-1])
    targets = rng.normal(size=(sentences, TEACHER)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    held_out = HeldOut([], ids[:64], targets[:64])
    # Nothing is read or written: the ids need no text.
    words: Any = SimpleNamespace(vocab_size=VOCABULARY, special=SpecialIds(0, 1, 2, 3))
    return RunData(
        words, ids, targets, held_out, None, TEACHER, "random", "random", None
    )


def make_trainer(work: str, args: argparse.Namespace, batch: int, group: Group) -> Any:
    """A trainer of the default model in a folder of its own."""
    config = Config(objectives=objectives_type()(**WORK[work]))
    config.data.buckets, config.data.max_length = [BUCKET], BUCKET
    config.precision.dtype = args.dtype
    config.trainer.micro_batch, config.trainer.max_steps = batch, 10**5
    config.trainer.log_every = config.trainer.validate_every = 10**5
    config.trainer.best_metric = "cosine" if work == "A" else "ce"
    mx.random.seed(0)
    made = build_objectives(config)
    model = build_model(config, parts_of(made), VOCABULARY, TEACHER)
    data = make_data(max(8192, 2 * batch * group.size))
    codec = SentenceCodec(model, data.tokenizer, config, TEACHER)
    folder = RunFolder(Path(tempfile.mkdtemp(dir=args.folder)), group.is_writer)
    display = RunDisplay(console=Console(quiet=True))
    return Trainer(config, made, codec, data, folder, display, group)


def seconds_of(trainer: Trainer, updates: int) -> float:
    """Seconds of the trainer's next updates, its validation and saving left out."""
    before = trainer.progress.seconds
    trainer.total = trainer.progress.step + updates
    trainer.run()
    return trainer.progress.seconds - before


def losses_of(trainer: Trainer, work: str) -> list[float]:
    """Loss of the first updates."""
    name = next(iter(WORK[work]))
    feed = trainer.feed.updates(0)
    trainer.codec.model.train()
    updates = [next(feed) for _ in range(CHECKED)]
    feed.close()
    return [trainer.run_update(n, u)[f"{name}_loss"] for n, u in enumerate(updates)]


# -- what one process does ----------------------------------------------------------


def work_of(work: str, args: argparse.Namespace, group: Group) -> dict[str, Any]:
    """Check, then time, one kind of update alone and together."""
    together = make_trainer(work, args, args.batch, group)
    found = losses_of(together, work)
    whole = make_trainer(work, args, args.batch * group.size, ALONE)
    expected = losses_of(whole, work)
    tolerance = 1e-4 if args.dtype == "float32" else 2e-2
    np.testing.assert_allclose(found, expected, rtol=tolerance, err_msg=work)
    del whole
    alone = make_trainer(work, args, args.batch, ALONE)
    samples: dict[str, list[float]] = {"alone": [], "together": []}
    for number in range(args.rounds + 1):
        if group.is_writer:
            samples["alone"].append(seconds_of(alone, args.steps))
        group.of_first(lambda: 0)  # the others wait here
        samples["together"].append(seconds_of(together, args.steps))
        if number == 0:  # compiling, first use of every shape
            samples = {"alone": [], "together": []}
    require_same_bits(together, group)
    if not group.is_writer:
        return {}
    per_sample = args.steps * args.batch
    ratios = [
        group.size * a / b
        for a, b in zip(samples["alone"], samples["together"], strict=True)
    ]
    state = together.stepper
    return {
        "alone_samples_per_second": timing.spread(
            [per_sample / t for t in samples["alone"]]
        ),
        "together_samples_per_second": timing.spread(
            [group.size * per_sample / t for t in samples["together"]]
        ),
        "alone_step_ms": timing.spread(
            [1e3 * t / args.steps for t in samples["alone"]]
        ),
        "together_step_ms": timing.spread(
            [1e3 * t / args.steps for t in samples["together"]]
        ),
        "speedup": timing.spread(ratios),
        "speedups": [round(r, 3) for r in ratios],
        "summed_bytes": summed_bytes(state, next(iter(WORK[work])), alone),
        "losses": {"together": found, "one_process": expected},
    }


def summed_bytes(stepper: Any, objective: str, trainer: Trainer) -> int:
    """Bytes of gradients that one update sums over the processes."""
    feed = trainer.feed.updates(0)
    (batch,) = next(feed)
    feed.close()
    gradients = stepper.micro_gradients(objective, batch, mx.random.key(0))
    return sum(g.nbytes for g in gradients.gradients.values())


def require_same_bits(trainer: Trainer, group: Group) -> None:
    """Every process must hold the first one's weights, bit by bit."""
    arrays = trainer.stepper.state.parameters
    own = [int(mx.sum(a.view(mx.uint32)).item()) for _, a in sorted(arrays.items())]
    assert group.of_first(lambda: own) == own, f"process {group.rank} went its own way"


def messages(args: argparse.Namespace, group: Group) -> list[dict[str, float]]:
    """Time of one ``all_sum`` by size; the next begins when the last has ended."""
    rows = []
    for size in (s for s in MESSAGES if s <= args.largest):
        message = mx.random.normal((size // 4,))
        mx.eval(message)
        times = []
        for _ in range(10):
            started = time.perf_counter()
            mx.eval(group.sum([message]))
            times.append(time.perf_counter() - started)
        middle = statistics.median(times[2:])
        traffic = 2 * (group.size - 1) / group.size * size
        rows.append(
            {"bytes": size, "ms": 1e3 * middle, "bus_gb_s": traffic / middle / 1e9}
        )
    return rows


def worker(args: argparse.Namespace) -> None:
    """One process of the benchmark; the first one prints and writes."""
    info = device.select("auto")
    group = distributed.join()
    assert group.size == args.processes, f"{group.size} processes found each other"
    faulthandler.dump_traceback_later(args.limit, exit=True)
    rows = messages(args, group)
    if group.is_writer:
        show_messages(rows)
    results = {}
    for work in WORK:
        results[work] = work_of(work, args, group)
        if group.is_writer:
            show_work(work, results[work], group)
    group.of_first(lambda: 0)
    faulthandler.cancel_dump_traceback_later()
    if not group.is_writer:
        return
    record = {
        "benchmark": "parallel",
        "backend": args.backend,
        "processes": group.size,
        "batch": args.batch,
        "bucket": BUCKET,
        "dtype": args.dtype,
        "steps": args.steps,
        "rounds": args.rounds,
        "work": results,
        "figures": {
            f"{work}, {name}": {"unit": "ms", "spread": found[f"{name}_step_ms"]}
            for work, found in results.items()
            for name in ("alone", "together")
        },
        "all_sum": rows,
        "device": info.name,
        "mlx": info.mlx_version,
        "command": command_line(),
        "commit": timing.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


def show_work(work: str, found: dict[str, Any], group: Group) -> None:
    """One kind of update, for people."""
    (_, one, _), (_, all_, _) = found["alone_step_ms"], found["together_step_ms"]
    low, middle, high = found["speedup"]
    print(
        f"{work}  alone {one:.2f} ms, {group.size} processes {all_:.2f} ms an update, "
        f"together {middle:.2f} x  [{low:.2f}, {high:.2f}] of one",
        flush=True,
    )


def show_messages(rows: list[dict[str, float]]) -> None:
    """Sums by size, for people."""
    for row in rows:
        print(
            f"all_sum {row['bytes']:>11,} bytes  {row['ms']:8.3f} ms  "
            f"{row['bus_gb_s']:8.2f} GB/s on the link",
            flush=True,
        )


def command_line() -> str:
    """The command as typed in the checkout, without what its own processes get."""
    given = sys.argv[1 : sys.argv.index("--worker")]
    return " ".join(["python", f"benchmarks/{Path(__file__).name}", *given])


if __name__ == "__main__":
    arguments = parse()
    if arguments.worker:
        worker(arguments)
    else:
        sys.exit(launch(arguments.processes, arguments.backend))

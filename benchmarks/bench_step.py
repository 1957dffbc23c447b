"""What does one training step cost, and what did another checkout's cost?

    python benchmarks/bench_step.py [--against FOLDER] [--quick] [--rounds N]
        [--only WORD ...] [--text FILE] [--tokenizer FILE] [--output FILE]

Claims it would refute, on a GPU: bfloat16 is faster than float32, and candidates are
faster than a vocabulary of 30,522 tokens. With ``--against`` the steps of another
checkout of this project are timed in turn with ours, each in a process of its own, and
the ratios are shown. Updates follow each other as in training: the next one is handed
over while the device works on the last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_WARM_UP = 6


def serve(text: Path | None, tokenizer: Path | None) -> None:
    """Answer timing requests, one JSON line each, from standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, prints elsewhere
    import training_step as ts  # isort: skip  before mlx: it brings the BLAS
    import mlx.core as mx

    sentences = ts.Sentences.read(text, tokenizer)
    data: dict[bool, Any] = {}
    steps: dict[ts.Case, tuple[Any, list[Any]]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        case, count = ts.Case(**request["case"]), request["steps"]
        if case not in steps:
            full = case.full_vocabulary
            if full not in data:
                data[full] = sentences.data(full)
            step = ts.Step(case, data[full])
            steps = {case: (step, step.batches(16))}
            mx.clear_cache()
            mx.reset_peak_memory()
            run(ts, *steps[case], _WARM_UP)
        seconds, loss = run(ts, *steps[case], count)
        answer = {
            "ms": 1e3 * seconds / count,
            "loss": loss,
            "vocabulary": steps[case][0].vocabulary,
            "peak_bytes": mx.get_peak_memory(),
            "device": device_name(),
            "mlx": mx.__version__,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def run(ts: Any, step: Any, batches: list[Any], count: int) -> tuple[float, float]:
    """Seconds of some updates, and the loss of the last."""
    import mlx.core as mx

    mx.synchronize()
    start = time.perf_counter()
    before = None
    for batch in itertools.islice(itertools.cycle(batches), count):
        loss = step.update(batch)
        step.start(loss)
        if before is not None:
            mx.eval(before)
        before = loss
    mx.eval(before, step.arrays())
    mx.synchronize()
    return time.perf_counter() - start, float(before.item())


def device_name() -> str:
    """Name of the device that computes."""
    from energyflow_mlx.runtime import device

    return device.describe().name


class Worker:
    """A process that times steps of one checkout."""

    def __init__(self, checkout: Path, options: list[str], log: Path | None) -> None:
        """Start it; without a log its messages are shown."""
        environment = dict(os.environ)
        path = [str(checkout), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
        self._log = log.open("a", encoding="utf-8") if log else None
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            cwd=Path(__file__).resolve().parent,
        )

    def ask(self, case: dict[str, Any], steps: int) -> dict[str, Any]:
        """Time some steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"case": case, "steps": steps}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended; its messages say why")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        if self._log:
            self._log.close()


def cases(quick: bool) -> list[dict[str, Any]]:
    """Steps of A and B at two batch sizes, formats and vocabularies.

    Args:
        quick: One batch size, and float32 only.
    """
    batches = (64,) if quick else (64, 512)
    dtypes = ("float32",) if quick else ("bfloat16", "float32")
    found = []
    for batch, dtype in itertools.product(batches, dtypes):
        common = {"batch": batch, "dtype": dtype}
        found.append({"objective": "distillation", **common})
        for full, candidates in ((False, 0), (False, 2048), (True, 0), (True, 2048)):
            if quick and candidates and not full:
                continue  # the built-in captions have fewer tokens than that
            words = {"full_vocabulary": full, "candidates": candidates}
            found.append({"objective": "reconstruction", **words, **common})
    return found


def name_of(case: dict[str, Any]) -> str:
    """Short name of a case."""
    words = [case["objective"], f"B{case['batch']}", case["dtype"]]
    if case["objective"] == "reconstruction":
        words.append("V30522" if case["full_vocabulary"] else "V of the text")
    if case.get("candidates"):
        words.append(f"{case['candidates']} candidates")
    return " ".join(words)


def spread(values: list[float]) -> list[float]:
    """20th, 50th and 80th percentile."""
    if len(values) < 2:
        return [round(v, 4) for v in values * 3]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return [round(tenths[i], 4) for i in (1, 4, 7)]


def main() -> None:
    """Time every case and print table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[], help="words of a case's name")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.text, args.tokenizer)
        return
    options = []
    for name in ("text", "tokenizer"):
        value = getattr(args, name)
        options += [f"--{name}", str(value.resolve())] if value else []
    log = args.output.with_suffix(".log") if args.output else None
    workers = {"ours": Worker(CHECKOUT, options, log)}
    if args.against:
        workers["other"] = Worker(args.against.resolve(), options, log)
    chosen = [c for c in cases(args.quick) if all(w in name_of(c) for w in args.only)]
    found = []
    for case in chosen:
        found.append(measure(case, workers, args.rounds, args.steps))
        print(line_of(found[-1]), flush=True)
        if args.output:
            args.output.write_text(json.dumps(record(found)) + "\n", encoding="utf-8")
    for worker in workers.values():
        worker.close()
    print(json.dumps(record(found)))


def measure(
    case: dict[str, Any], workers: dict[str, Worker], rounds: int, steps: int
) -> dict[str, Any]:
    """Time one case in turn on every worker."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    peaks, answer = {}, {}
    with ThreadPoolExecutor() as pool:  # compilers at work side by side
        list(pool.map(lambda worker: worker.ask(case, 1), workers.values()))
    for _ in range(rounds):
        for name, worker in workers.items():
            answer = worker.ask(case, steps)
            times[name].append(answer["ms"])
            peaks[name] = answer["peak_bytes"]
    found = {
        "case": name_of(case),
        "ms": {name: spread(values) for name, values in times.items()},
        "peak_bytes": peaks,
        "vocabulary": answer["vocabulary"],
        "device": answer["device"],
        "mlx": answer["mlx"],
    }
    if "other" in times:
        pairs = zip(times["other"], times["ours"], strict=True)
        found["ratio"] = spread([b / a for b, a in pairs])
    return found


def line_of(found: dict[str, Any]) -> str:
    """One line of the table."""
    times = "  ".join(
        f"{name} {ms[1]:8.3f} ms {found['peak_bytes'][name] / 2**20:7.0f} MiB"
        for name, ms in found["ms"].items()
    )
    ratio = found.get("ratio")
    ending = f"  ratio {ratio[1]:.2f} ({ratio[0]:.2f}..{ratio[2]:.2f})" if ratio else ""
    return f"{found['case']:<52} {times}{ending}"


def record(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What is stored."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    figures = {}
    for case in found:
        per_second = [1e3 / ms for ms in reversed(case["ms"]["ours"])]
        name, peak = case["case"], case["peak_bytes"]["ours"]
        figures[name] = {"unit": "steps/s", "spread": per_second}
        figures[f"{name}: memory"] = {"unit": "bytes", "spread": 3 * [peak]}
    return {"op": "training_step", "date": date, "cases": found, "figures": figures}


if __name__ == "__main__":
    main()

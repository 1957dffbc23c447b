"""Are the CUDA kernels right on a real GPU, and as fast as they must be?

    python benchmarks/h200_kernels.py FOLDER [--quick] [--seconds N]
        [--only SECTION ...]

Run from the checkout on a machine with an NVIDIA GPU and MLX's CUDA build. Claims it
would refute: values and gradients of every kernel are those of the reference, equal
input gives equal bits, ``mx.compile`` and ``mx.checkpoint`` change nothing, ``mx.vmap``
refuses a kernel (all in ``h200_checks.py``), and the speeds that the scripts in
``benchmarks/ops`` state.

Every section is a process of its own with a time limit, so that one failure does not
hide the others. FOLDER gets ``h200_kernels.json`` and ``h200_kernels.log``; the table
is printed. Exit status 1 says that a section failed or a value was out of tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
# Sections of h200_checks.py.
CORRECTNESS = (
    *("masked_mean", "causal_im2col", "gelu", "gru_blend", "embedding"),
    *("linear_cross_entropy", "layer_norm", "linear", "lattice", "field", "transforms"),
)
COLUMNS = "bench_causal_im2col"
# Section: script in benchmarks/ops and its arguments; each takes under a minute.
TIMING = {
    "mean_float32": ("bench_masked_mean", "--dtype", "float32"),
    "mean_half": ("bench_masked_mean", "--dtype", "float16", "bfloat16"),
    "columns": (COLUMNS, "--only", "columns"),
    "convolution_float32": (COLUMNS, "--only", "convolution", "--dtype", "float32"),
    "convolution_bfloat16": (COLUMNS, "--only", "convolution", "--dtype", "bfloat16"),
    "gelu_float32": ("bench_gelu", "--dtype", "float32"),
    "gru_blend_float32": ("bench_gru_blend", "--dtype", "float32"),
    "embedding_times": ("bench_embedding",),
    "layer_norm_times": ("bench_layer_norm",),
    "cross_entropy_times": ("bench_linear_cross_entropy",),
    "scatter": ("bench_lattice_scatter",),
    "readout": ("bench_lattice_readout",),
    "field_write_times": ("bench_field_write",),
    "field_read_times": ("bench_field_read",),
    "tuning": ("tune_kernels",),
}
SECONDS = 60  # limit of one timed section
SECONDS_CHECK = 170  # limit of all checks, most of it spent in compilers

# Choosing launch shapes is no claim: `tuning` runs when it is asked for.
PARTS = [*CORRECTNESS, *(name for name in TIMING if name != "tuning")]


def command(name: str, output: Path, options: tuple[str, ...]) -> list[str]:
    """Give the command line of a section; the options are for timed ones."""
    if name in TIMING:
        script, *choice = TIMING[name]
        path = CHECKOUT / "benchmarks" / "ops" / f"{script}.py"
        line = [sys.executable, str(path), "--output", str(output)]
        return [*line, *choice, *options]
    path = CHECKOUT / "benchmarks" / "h200_checks.py"
    return [sys.executable, str(path), name, str(output)]


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
    args = parser.parse_args()
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

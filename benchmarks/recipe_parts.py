"""What is each part of a recipe worth? Trained whole, and without one part at a time.

    python benchmarks/recipe_parts.py --train FILE ... --held-out FILE [--seeds 0 1]
        [--experiment decoder_best] [--parts whole "own pairs" +corrector reranking]
        [--words trainer.max_steps=2000 ...] [--samples 8] [--corrections 4]
        [--batch-size 1000]
        [--broad FILE ... --sts FILE --parts whole broad --experiment encoder_best]
        [--output FILE]

whole       The recipe as it stands.
own pairs   No pairs of its own.
own text    That, and guesses at real sentences alone: for a recipe with a corrector.
corrector   No second reading of guesses: corrections by moved vectors alone.
+corrector  The recipe with one, as ``both_best`` has it, and kernels of three.
reranking   The weights of ``whole``, with one try a round in place of ``--samples``.
context     No context: blocks of the encoder know what lies in their reach alone.
broad       Without the files of ``--broad``, which all others train on too.
muon        AdamW for every parameter.

Every run has as many updates. A decoder is measured on the held-out sentences, from the
teacher's vectors: exact and BLEU greedily, of the best of some samples, and after
corrections; an encoder by its cosine with the teacher there and on STS files. Printed
are the mean over the seeds, the least and the most.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.json_text import json_text

CHANGES = {
    "whole": (),
    "own pairs": ("data.own_pairs.share=0",),
    "own text": ("data.own_pairs.share=0", "objectives.correction.own=0"),
    "corrector": ("decoder.corrector=false", "objectives.correction=null"),
    "+corrector": (
        "decoder.corrector=true",
        "decoder.kernel_size=3",
        "objectives={correction: {lr: 1e-3, every: 400, count: 8192, kept: 49152}}",
    ),
    "context": ("encoder.context=false",),
    "broad": (),
    "muon": ("optimizer.kind=adamw",),
}
RERANKING = "reranking"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", default="decoder_best")
    parser.add_argument("--train", nargs="+", required=True, help="files of sentences")
    parser.add_argument("--broad", nargs="*", default=[], help="more of these")
    parser.add_argument("--held-out", required=True, help="file of sentences")
    parser.add_argument("--sts", nargs="*", default=[], help="STS files")
    parser.add_argument("--parts", nargs="+", default=["whole", "own pairs"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--words", nargs="*", default=[], help="as train takes them")
    parser.add_argument("--samples", type=int, default=8, help="tries a round")
    parser.add_argument("--corrections", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=0, help="as evaluate has it")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    known = {*CHANGES, RERANKING}
    if unknown := set(args.parts) - known:
        parser.error(f"--parts are {', '.join(sorted(known))}, got {unknown}")
    if RERANKING in args.parts and "whole" not in args.parts:
        parser.error("reranking measures the weights of whole: name that too")
    return args


def command(*words: str) -> str:
    """Run a command of the package; returns what it wrote on standard output."""
    full = [sys.executable, "-m", "energyflow_mlx", *words]
    return subprocess.run(full, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(args: argparse.Namespace, part: str, seed: int, folder: Path) -> float:
    """Train the recipe without a part; returns the seconds it took."""
    files = args.train + (args.broad if part != "broad" else [])
    start = time.perf_counter()
    command(
        *("train", f"+experiment={args.experiment}", f"data.train=[{','.join(files)}]"),
        *(f"data.val={args.held_out}", f"seed={seed}", f"run.dir={folder}"),
        *("trainer.decode_samples=0", "trainer.follow_samples=0", "trainer.keep=1"),
        *args.words,
        *CHANGES[part],
    )
    return time.perf_counter() - start


def measure(args: argparse.Namespace, folder: Path, samples: int) -> dict[str, float]:
    """Figures of a trained run on the held-out sentences and the STS files."""
    words = [f"run={folder}", f"data.val={args.held_out}"]
    words.append(f"batch_size={args.batch_size}")
    if args.sts:
        words.append(f"sts=[{','.join(args.sts)}]")
    if RunFolder(folder).read_config().objectives.reconstruction is not None:
        words += [f"corrections=[0,{args.corrections}]", f"samples={samples}"]
    found = json.loads(command("evaluate", *words).splitlines()[-1])
    names = ("cosine", "ce", "bleu", "exact")
    figures = {name: found[name] for name in names if name in found}
    figures |= {f"sts {k}": v for k, v in found.get("spearman", {}).items()}
    for rounds in (0, args.corrections):
        after = found.get(f"corrections_{rounds}", {})
        what = f"best of {samples}, {rounds} corrections"
        figures |= {f"{k}: {what}": after[k] for k in ("bleu", "exact") if k in after}
    return figures


def spread(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean, least and most over the seeds, by part and figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in dict.fromkeys(run["part"] for run in runs):
        own = [run["figures"] for run in runs if run["part"] == part]
        values = {name: [figures[name] for figures in own] for name in own[0]}
        found[part] = {
            name: [float(np.mean(v)), min(v), max(v)] for name, v in values.items()
        }
    return found


def main() -> None:
    """Train, measure, report."""
    args, runs = parse(), []
    for seed in args.seeds:
        for part in (part for part in args.parts if part != RERANKING):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "run"
                seconds = train(args, part, seed, folder)
                measured = {part: args.samples}
                if part == "whole" and RERANKING in args.parts:
                    measured[RERANKING] = 1
                for name, samples in measured.items():
                    figures = measure(args, folder, samples)
                    run = {"part": name, "seed": seed, "seconds": seconds}
                    runs.append(run | {"figures": figures})
                    print(json_text(runs[-1]), flush=True)
    record = {
        "benchmark": "recipe_parts",
        "experiment": args.experiment,
        "words": args.words,
        "runs": runs,
        "mean, least, most": spread(runs),
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(json_text(record))


if __name__ == "__main__":
    main()

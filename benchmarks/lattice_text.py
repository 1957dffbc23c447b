"""What does text lose on its way through the lattice?

    python benchmarks/lattice_text.py [--updates 1500] [--set KEY=VALUE ...]
        [--output FILE]

Trains ``+experiment=flow_text`` with a small carrier. The decoder writes held-out
built-in captions from three vectors: the teacher's, what the encoder and the lattice
make of the sentence, and what ``transform`` makes of the teacher's vector.

Refuted when BLEU through the lattice is below 0.95 of that from the teacher's vector.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from energyflow_mlx.build.codec import load
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.data.dataset import SentenceSet, split
from energyflow_mlx.evaluation.generation import score_generation
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.teacher import teacher_from

_WANTED = 0.95
# Two CPU cores have done with it in minutes.
_SMALL = ("lattice.carrier.hidden=32", "lattice.carrier.layers=1")
_SMALL += ("lattice.carrier.neuron_features=16", "lattice.cube.steps=2")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--sentences", type=int, default=200, help="held out, decoded")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the run")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def train(args: argparse.Namespace, folder: Path) -> list[str]:
    """Train the run; returns its command's words."""
    words = [
        "+experiment=flow_text",
        *_SMALL,
        f"trainer.max_steps={args.updates}",
        f"trainer.validate_every={args.updates}",
        "trainer.decode_samples=0",
        "data.captions=6000",
        *args.set,
    ]
    command = [sys.executable, "-m", "energyflow_mlx.train", *words]
    subprocess.run([*command, f"run.dir={folder}"], check=True, stdout=sys.stderr)
    return words


def measure(folder: Path, sentences: int) -> dict[str, Any]:
    """BLEU, share of exact sentences and cosine from each of the three vectors."""
    codec = load(folder)
    data, seed = codec.config.data, codec.config.seed
    captions = SentenceSet(generate_captions(data.captions, seed))
    texts = (split(captions, data.val_fraction, seed)[1].texts or [])[:sentences]
    teacher = teacher_from(codec.config.teacher)
    goals = teacher.encode(texts, batch_size=64)
    vectors = {
        "teacher": goals,
        "through the lattice": codec.encode(texts),
        "transform of the teacher's": codec.transform(goals),
    }
    found = {}
    for name, rows in vectors.items():
        scores = score_generation(codec.decode(rows), texts)
        cosine = float(cosine_rows(rows, goals).mean())
        found[name] = {"bleu": scores.bleu, "exact": scores.exact, "cosine": cosine}
    return found


def main() -> None:
    """Train, measure, report."""
    args = parse()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        words = train(args, Path(scratch) / "run")
        found = measure(Path(scratch) / "run", args.sentences)
    bleu = {name: scores["bleu"] for name, scores in found.items()}
    ratio = bleu["through the lattice"] / bleu["teacher"]
    record = {
        "benchmark": "lattice_text",
        "command": " ".join(["python", *sys.argv]),
        "words": words,
        "seconds": time.perf_counter() - start,
        "sentences": args.sentences,
        "vectors": found,
        "ratio": ratio,
        "transform_ratio": bleu["transform of the teacher's"] / bleu["teacher"],
        "refuted": ratio < _WANTED,
    }
    if args.output:
        args.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(json_text(record))


if __name__ == "__main__":
    main()

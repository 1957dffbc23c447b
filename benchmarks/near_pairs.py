"""Does an encoder rank near sentences as its teacher does?

    python benchmarks/near_pairs.py --run RUN [RUN ...] --held-out FILE [--seed 7]
        [--output FILE]

STS sets ask how near two sentences are that share most of their words. Here each
held-out sentence is paired with

edit           an edit of its own, of the kinds of ``data.edits``,
neighbor       one of the five sentences nearest to it by the teacher,
neighbor edit  an edit of that one,
other          any other sentence,

and the figure is Spearman's correlation x 100 between the encoder's cosines and the
teacher's, over each kind of pair and over all. No score of a person is needed, so any
sentences serve to choose by. Runs of one teacher can be compared.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import energyflow_mlx
from energyflow_mlx.data.edits import KINDS
from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.evaluation.similarity import cosine_rows, spearman
from energyflow_mlx.inference.correcting import Embed
from energyflow_mlx.runtime.json_text import json_text

NEIGHBORS = 5
DRAWS = 5  # random numbers of one edit


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--run", type=Path, nargs="+", required=True, help="run folders"
    )
    parser.add_argument("--held-out", type=Path, required=True, help="sentences")
    parser.add_argument("--seed", type=int, default=7, help="of the pairs")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def edited(text: str, other: str, rng: np.random.Generator) -> str:
    """One edit of a sentence, with words of another."""
    kind = KINDS[rng.integers(len(KINDS))]
    return " ".join(kind(text.split(), other.split(), rng.random(DRAWS).tolist()))


def pairs(texts: list[str], embed: Embed, seed: int) -> dict[str, list[str]]:
    """Second sentences of the pairs, by kind; the first ones are ``texts``."""
    rng = np.random.default_rng(seed)
    vectors = unit_rows(embed(texts))
    nearness = vectors @ vectors.T
    np.fill_diagonal(nearness, -np.inf)
    nearest = np.argsort(-nearness, axis=1)[:, :NEIGHBORS]
    rows = np.arange(len(texts))
    near = [texts[i] for i in nearest[rows, rng.integers(NEIGHBORS, size=len(texts))]]
    both = list(zip(texts, near, strict=True))
    others = (rows + rng.integers(1, len(texts), size=len(texts))) % len(texts)
    return {
        "edit": [edited(text, other, rng) for text, other in both],
        "neighbor": near,
        "neighbor edit": [edited(other, text, rng) for text, other in both],
        "other": [texts[i] for i in others],
    }


def agreement(
    texts: list[str], seconds: dict[str, list[str]], embed: Embed, teacher: Embed
) -> dict[str, float]:
    """Spearman x 100 of two embedders' cosines, by kind of pair."""
    cosines = {
        name: {kind: cosine_rows(first, by(second)) for kind, second in seconds.items()}
        for name, by in (("own", embed), ("teacher", teacher))
        for first in [by(texts)]
    }
    groups = {kind: [kind] for kind in seconds} | {"all": list(seconds)}
    return {
        name: 100
        * spearman(
            *(np.concatenate([of[kind] for kind in kinds]) for of in cosines.values())
        )
        for name, kinds in groups.items()
    }


def main() -> None:
    """Measure each run on the same pairs."""
    args = parse()
    texts = [line for _, line in read_lines(args.held_out)]
    found = {}
    for run in args.run:
        codec = energyflow_mlx.load(run)
        teacher = codec.embedder("teacher")
        seconds = pairs(texts, teacher, args.seed)
        found[run.name] = agreement(texts, seconds, codec.encode, teacher)
        shown = ", ".join(f"{kind} {v:.1f}" for kind, v in found[run.name].items())
        print(f"{run.name}: {shown}", flush=True)
    record = {"benchmark": "near_pairs", "seed": args.seed, "runs": found}
    if args.output:
        args.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(json_text(record))


if __name__ == "__main__":
    main()

"""Group sentences by meaning, and let the decoder say what each group is about.

    python examples/codebook.py runs/mine my.txt 8

Spherical k-means on the vectors; the mean of a group is a vector like any other, so it
can be decoded.
"""

import sys
from pathlib import Path

import numpy as np

import energyflow_mlx


def k_means(vectors: np.ndarray, k: int, *, rounds: int = 20) -> np.ndarray:
    """Unit vectors ``[k, E]`` of the groups; a group that empties keeps its vector.

    Args:
        vectors: Unit vectors, ``[N, E]``, N at least k.
        k: Number of groups.
        rounds: Times every vector is given to its nearest group.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using
    clustering", Machine Learning 42, 2001, section 3.
    """
    start = np.random.default_rng(0).choice(len(vectors), k, replace=False)
    centers = vectors[start]
    for _ in range(rounds):
        group = np.argmax(vectors @ centers.T, axis=1)  # [N]
        for g in np.unique(group):
            mean = vectors[group == g].mean(axis=0)
            centers[g] = mean / np.linalg.norm(mean)
    return centers


def main(run: str, sentences: str, k: str) -> None:
    """Print for each group its size, its decoded center and two of its sentences."""
    ef = energyflow_mlx.load(run)
    lines = Path(sentences).read_text(encoding="utf-8").splitlines()
    vectors = ef.encode(lines)
    centers = k_means(vectors, int(k))
    scores = vectors @ centers.T  # [N, k]
    group = np.argmax(scores, axis=1)
    for g, text in enumerate(ef.decode(centers)):
        members = np.flatnonzero(group == g)
        print(f"{len(members):5}  {text}")
        for row in members[np.argsort(-scores[members, g])][:2]:
            print(f"         {lines[row]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/codebook.py RUN SENTENCES.txt GROUPS")
    main(*sys.argv[1:])

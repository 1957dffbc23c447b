"""Search sentences by meaning: encode them once, then compare vectors with NumPy.

    python examples/search.py runs/mine my.txt "someone plays music"

The first call writes the vectors beside the sentences, as my.txt.npy; later calls read
them.
"""

import sys
from pathlib import Path

import numpy as np

import energyflow_mlx


def vectors_of(ef: energyflow_mlx.SentenceCodec, path: Path) -> np.ndarray:
    """Unit vectors ``[N, E]`` float32 of a file's lines, kept beside it.

    Args:
        ef: A trained model.
        path: Text file, a sentence a line.
    """
    kept = Path(f"{path}.npy")
    if not kept.exists():
        np.save(kept, ef.encode(path.read_text(encoding="utf-8").splitlines()))
    return np.load(kept)


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest cosines, the best first.

    Args:
        vectors: Unit vectors, ``[N, E]``.
        query: Unit vector, ``[E]``.
        k: How many; all of them where there are fewer.
    """
    scores = vectors @ query  # [N]
    k = min(k, len(scores))
    best = np.argpartition(-scores, k - 1)[:k]
    return best[np.argsort(-scores[best])]


def main(run: str, sentences: str, *queries: str) -> None:
    """Print the five sentences nearest to each query."""
    ef = energyflow_mlx.load(run)
    path = Path(sentences)
    lines = path.read_text(encoding="utf-8").splitlines()
    vectors = vectors_of(ef, path)
    for query in queries:
        print(query)
        wanted = ef.encode(query)
        for row in nearest(vectors, wanted, 5):
            print(f"  {vectors[row] @ wanted:.3f}  {lines[row]}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python examples/search.py RUN SENTENCES.txt QUERY ...")
    main(*sys.argv[1:])

"""Walk from one sentence to another through their vectors, and read what is between.

python examples/interpolate.py runs/mine "A dog runs." "Two cats are sleeping."
"""

import sys

import numpy as np

import energyflow_mlx


def slerp(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
    """Points of the arc between two unit vectors, evenly spaced, ``[steps, E]``.

    y(t) = (sin((1 - t) w) a + sin(t w) b) / sin(w),  w = arccos(a . b)

    Where the two point the same way they are the arc.

    Args:
        a: Unit vector, ``[E]``.
        b: Unit vector that is not -a, ``[E]``.
        steps: Number of points, both ends included.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    t = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if angle < 1e-4:  # sin(w) would be no divisor
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def main(run: str, first: str, second: str) -> None:
    """Print the sentences decoded from seven points between two sentences."""
    ef = energyflow_mlx.load(run)
    a, b = ef.encode([first, second])
    points = slerp(a, b, 7)
    for share, text in zip(np.linspace(0, 1, 7), ef.decode(points), strict=True):
        print(f"{share:4.0%}  {text}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit('usage: python examples/interpolate.py RUN "SENTENCE" "SENTENCE"')
    main(*sys.argv[1:])

"""Does MLX multiply matrices on the CPU at the speed this machine has?

    python benchmarks/bench_blas.py

Claim it would refute: inside the package, MLX's float32 matmul (1024 x 1024) reaches
at least 60 % of NumPy's rate in the same process. The two are timed in turn, so a
busy machine slows both; the ratio of each neighbouring pair counts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

from energyflow_mlx.runtime import blas, device, diagnosis

SIZE = 1024
REPEATS = 31


def main() -> None:
    """Time both, print a line for people and one JSON object."""
    found = device.select("cpu")
    ours, numpys = diagnosis.time_matmuls(SIZE, REPEATS)
    ratio = timing.spread([n / m for m, n in zip(ours, numpys, strict=True)])
    low, middle, high = ratio
    print(f"{blas.info()}; {found}")
    print(f"MLX / NumPy matmul rate: {middle:.2f} (p20 {low:.2f}, p80 {high:.2f})")
    rates = [2e-9 * SIZE**3 / seconds for seconds in ours]
    figures = {f"float32 product of {SIZE} x {SIZE}": timing.figure("GFLOP/s", rates)}
    timing.finish("matmul", [], None, figures=figures, mlx_over_numpy=ratio)
    if high < 0.6:
        raise SystemExit("below 60 % of NumPy's rate")


if __name__ == "__main__":
    main()

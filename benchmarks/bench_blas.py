"""Does MLX multiply matrices on the CPU at the speed this machine has?

    python benchmarks/bench_blas.py

Claim it would refute: inside the package, MLX's float32 matmul (1024 x 1024) reaches
at least 60 % of NumPy's rate in the same process. The two are timed in turn, so a
busy machine slows both; the ratio of each neighbouring pair counts.
"""

import json
import statistics
from datetime import UTC, datetime

from energyflow_mlx.runtime import blas, device, diagnosis

SIZE = 1024
REPEATS = 31


def main() -> None:
    """Time both, print a line for people and one JSON object."""
    found = device.select("cpu")
    ours, numpys = diagnosis.time_matmuls(SIZE, REPEATS)
    low, middle, high = _quintiles([n / m for m, n in zip(ours, numpys, strict=True)])
    print(f"{blas.info()}; {found}")
    print(f"MLX / NumPy matmul rate: {middle:.2f} (p20 {low:.2f}, p80 {high:.2f})")
    record = {
        "op": "matmul",
        "backend": found.backend,
        "mode": "forward",
        "shape": [SIZE, SIZE, SIZE],
        "dtype": "float32",
        "ms": [round(1e3 * t, 3) for t in _quintiles(ours)],
        "baseline_ms": [round(1e3 * t, 3) for t in _quintiles(numpys)],
        "ratio": round(middle, 3),
        "ratio_p20_p80": [round(low, 3), round(high, 3)],
        "gflops": round(2e-9 * SIZE**3 / statistics.median(ours), 1),
        "blas": str(blas.info()),
        "device": found.name,
        "mlx": found.mlx_version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(record))


def _quintiles(values: list[float]) -> tuple[float, float, float]:
    cuts = statistics.quantiles(values, n=10)
    return cuts[1], statistics.median(values), cuts[7]


if __name__ == "__main__":
    main()

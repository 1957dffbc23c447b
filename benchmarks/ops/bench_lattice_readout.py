"""Is the lattice readout faster as a kernel than in plain MLX?

    python benchmarks/ops/bench_lattice_readout.py [--quick] [--output FILE]

Claim it would refute: on a GPU forward+backward is 5 times faster than plain MLX for 64
samples on a 28x28 surface, with 1,000 and with 10,000 flows each.
"""

import surfaces
import timing

from energyflow_mlx.ops import lattice_readout
from energyflow_mlx.ops.lattice_readout import lattice_readout_reference

FORMS = (lattice_readout, lattice_readout_reference)


def main() -> None:
    """Measure every case and print table and JSON line."""
    args = timing.arguments(__doc__)
    rounds = timing.rounds_of(args, 9)
    report = timing.Report("lattice_readout", args.output)
    for case in surfaces.every_case(args):
        report.add(surfaces.measure("lattice_readout", FORMS, case, rounds, {}))
    report.close()


if __name__ == "__main__":
    main()

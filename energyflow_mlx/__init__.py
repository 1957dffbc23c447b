"""Distilled text encoders, vector-to-text decoders and an energy lattice, on MLX."""

# Before anything imports mlx.core: the CPU backend takes its BLAS from the process.
from energyflow_mlx import blas as _blas

_blas.install()

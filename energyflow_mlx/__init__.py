"""Distilled text encoders, vector-to-text decoders and an energy lattice, on MLX."""

"""Sentences from vectors: greedy, sampled, beam search, iterative correction."""

from energyflow_mlx.text.generation.generate import generate

__all__ = ["generate"]

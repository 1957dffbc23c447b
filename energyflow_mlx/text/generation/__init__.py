"""Sentences from vectors: greedy, sampled, beam search, iterative correction."""

from energyflow_mlx.text.generation.correction import correct
from energyflow_mlx.text.generation.decoding import Decoding
from energyflow_mlx.text.generation.generate import Generator

__all__ = ["Decoding", "Generator", "correct"]

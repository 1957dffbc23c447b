"""Measures of sentence vectors and generated text: pure functions, host arrays."""

from energyflow_mlx.evaluation.generation import GenerationScores, score_generation
from energyflow_mlx.evaluation.retrieval import group_recall, precision_at
from energyflow_mlx.evaluation.similarity import (
    StsPairs,
    cosine_rows,
    mse_rows,
    read_sts,
    spearman,
    sts_score,
)

__all__ = [
    "GenerationScores",
    "StsPairs",
    "cosine_rows",
    "group_recall",
    "mse_rows",
    "precision_at",
    "read_sts",
    "score_generation",
    "spearman",
    "sts_score",
]

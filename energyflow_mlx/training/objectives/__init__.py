"""What a run can train, one file each; ``base`` says what they have in common."""

from energyflow_mlx.training.objectives.base import Objective, Outcome, StepBatch
from energyflow_mlx.training.objectives.correction import Correction
from energyflow_mlx.training.objectives.distillation import Distillation
from energyflow_mlx.training.objectives.flow import Flow
from energyflow_mlx.training.objectives.flow_text import FlowText
from energyflow_mlx.training.objectives.paraphrase import Paraphrase
from energyflow_mlx.training.objectives.reconstruction import Reconstruction
from energyflow_mlx.training.objectives.surface import Surface

__all__ = [
    "Correction",
    "Distillation",
    "Flow",
    "FlowText",
    "Objective",
    "Outcome",
    "Paraphrase",
    "Reconstruction",
    "StepBatch",
    "Surface",
]

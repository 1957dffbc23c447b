"""Typed configuration: one dataclass per group, with ranges and units.

A leaf of the package: it imports nothing but the error types.
"""

from energyflow_mlx.config.data import DataConfig, TeacherConfig
from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.config.objectives import (
    CorrectionConfig,
    DistillationConfig,
    FlowConfig,
    FlowTextConfig,
    ObjectiveConfig,
    ReconstructionConfig,
    SurfaceConfig,
    chosen_objectives,
    objective_settings,
    objectives_type,
)
from energyflow_mlx.config.root import (
    Config,
    RunConfig,
    config_from_json,
    read_config,
)
from energyflow_mlx.config.text import (
    DecoderConfig,
    EncoderConfig,
    TcnEncoderConfig,
    TokenizerConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.config.training import (
    OptimizerConfig,
    PrecisionConfig,
    TokenRowsConfig,
    TrainerConfig,
)

__all__ = [
    "Config",
    "CorrectionConfig",
    "DataConfig",
    "DecoderConfig",
    "DistillationConfig",
    "EncoderConfig",
    "FlowConfig",
    "FlowTextConfig",
    "LatticeConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PrecisionConfig",
    "ReconstructionConfig",
    "RunConfig",
    "SurfaceConfig",
    "TcnEncoderConfig",
    "TeacherConfig",
    "TokenRowsConfig",
    "TokenizerConfig",
    "TrainerConfig",
    "TransformerEncoderConfig",
    "chosen_objectives",
    "config_from_json",
    "objective_settings",
    "objectives_type",
    "read_config",
]

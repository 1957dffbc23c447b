"""Typed configuration: one dataclass per group, with ranges and units.

A leaf of the package: it imports nothing but the error types.
"""

from energyflow_mlx.config.data import DataConfig, TeacherConfig
from energyflow_mlx.config.lattice import LatticeConfig
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
    LOWER_IS_BETTER,
    LossConfig,
    OptimizerConfig,
    PrecisionConfig,
    TrainerConfig,
)

__all__ = [
    "LOWER_IS_BETTER",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "LatticeConfig",
    "LossConfig",
    "OptimizerConfig",
    "PrecisionConfig",
    "RunConfig",
    "TcnEncoderConfig",
    "TeacherConfig",
    "TokenizerConfig",
    "TrainerConfig",
    "TransformerEncoderConfig",
    "config_from_json",
    "read_config",
]

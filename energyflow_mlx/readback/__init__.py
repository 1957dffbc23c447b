"""Deferred readback: the only room that evaluates arrays during training."""

from energyflow_mlx.readback.engine import (
    BatchDiscarded,
    BatchNotSynced,
    BatchTiming,
    OperationTiming,
    Readback,
    ReadbackEngine,
)
from energyflow_mlx.readback.guard import HiddenReadGuard, ReadbackError

__all__ = [
    "BatchDiscarded",
    "BatchNotSynced",
    "BatchTiming",
    "HiddenReadGuard",
    "OperationTiming",
    "Readback",
    "ReadbackEngine",
    "ReadbackError",
]

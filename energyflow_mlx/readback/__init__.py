"""Deferred readback: the only room that evaluates arrays during training."""

from energyflow_mlx.readback.engine import ReadbackEngine
from energyflow_mlx.readback.guard import HiddenReadGuard, ReadbackError
from energyflow_mlx.readback.value import (
    BatchDiscarded,
    BatchNotSynced,
    BatchTiming,
    Flight,
    OperationTiming,
    Readback,
)

__all__ = [
    "BatchDiscarded",
    "BatchNotSynced",
    "BatchTiming",
    "Flight",
    "HiddenReadGuard",
    "OperationTiming",
    "Readback",
    "ReadbackEngine",
    "ReadbackError",
]

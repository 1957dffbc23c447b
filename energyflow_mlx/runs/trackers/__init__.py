"""Trackers: other places that get every record of ``metrics.jsonl``."""

from energyflow_mlx.runs.trackers.base import TrackedRun, Tracker, scalars
from energyflow_mlx.runs.trackers.log import TrackedLog, require_trackers

__all__ = ["TrackedLog", "TrackedRun", "Tracker", "require_trackers", "scalars"]

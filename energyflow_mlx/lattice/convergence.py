"""Early stop, when enough flows have arrived or no more arrive.

Counters are arrays, updated every step without evaluating anything; the caller reads
the verdict every few steps. Only for inference: it depends on the whole batch.
"""

from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig

_WINDOW = 5
_LEAST_IMPROVEMENT = 0.01
# After this many steps, and with this share arrived, half the patience is enough.
_LATE_STEP = 10
_LATE_SHARE = 0.8


class Progress(NamedTuple):
    """Counters of the early stop.

    Attributes:
        completed: The newest counts of arrived flows, at most five.
        mean: Mean of the last full window; 0 before there was one.
        stall: Windows in a row without improvement.
    """

    completed: tuple[mx.array, ...]
    mean: mx.array
    stall: mx.array

    @classmethod
    def start(cls) -> "Progress":
        """Counters before the first step."""
        return cls((), mx.array(0.0), mx.array(0.0))


def has_converged(
    config: LatticeConfig,
    progress: Progress,
    alive: mx.array,
    exists: mx.array,
    steps_done: int,
) -> tuple[Progress, mx.array]:
    """Update the counters and say, as a boolean array, whether to stop.

    Args:
        config: Of the lattice.
        progress: Counters so far.
        alive: Flows still travelling, ``[B, F]``.
        exists: Flows ever created, ``[B, F]``.
        steps_done: Steps taken so far.
    """
    created = exists.sum().astype(mx.float32)
    completed = created - alive.sum().astype(mx.float32)
    window = (*progress.completed, completed)[-_WINDOW:]
    mean, stall = progress.mean, progress.stall
    if len(window) == _WINDOW:
        mean = mx.stack(window).mean()
        known = progress.mean > 0
        gain = (mean - progress.mean) / mx.where(known, progress.mean, 1.0)
        is_stall = mx.logical_and(known, gain < _LEAST_IMPROVEMENT)
        stall = mx.where(is_stall, stall + 1.0, 0.0)
    progress = Progress(window, mean, stall)
    if steps_done < config.convergence_min_steps:
        return progress, mx.array(False)
    share = completed / created
    patience = config.convergence_patience
    stop = mx.logical_or(share >= config.convergence_threshold, stall >= patience)
    if steps_done > _LATE_STEP:
        late = mx.logical_and(share > _LATE_SHARE, stall > patience // 2)
        stop = mx.logical_or(stop, late)
    return progress, stop

"""Learning rate: linear warm-up, then cosine decay to a floor."""

import math

from energyflow_mlx.config import OptimizerConfig


def learning_rate(
    step: int, *, base: float, floor: float, warmup: int, decay: int
) -> float:
    """Learning rate of update ``step`` (from 0).

    step < warmup:  max(floor, base * (step + 1) / warmup)
    decay <= 0:     base
    otherwise:      floor + (base - floor) / 2 * (1 + cos(pi * min(s, decay) / decay))
                    with s = step - warmup

    Source: section 7 of the reference trainer (warm-up plus cosine).

    Args:
        step: Number of the update, from 0.
        base: Peak learning rate.
        floor: Learning rate at the end of the decay.
        warmup: Updates of warm-up.
        decay: Updates of decay after the warm-up; 0 = constant.
    """
    if step < warmup:
        return max(floor, base * (step + 1) / warmup)
    if decay <= 0:
        return base
    progress = min(step - warmup, decay) / decay
    return floor + (base - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def scheduled(optimizer: OptimizerConfig, peak: float, step: int, total: int) -> float:
    """Learning rate of an objective's update ``step``; its warm-up is short if it is.

    Args:
        optimizer: Warm-up, decay and floor.
        peak: Peak learning rate of the objective.
        step: Number of the update among those of the objective, from 0.
        total: Updates that the objective has in all.
    """
    warmup = min(optimizer.warmup_steps, total // 4)
    return learning_rate(
        step,
        base=peak,
        floor=optimizer.min_lr,
        warmup=warmup,
        decay=optimizer.decay_steps or total - warmup,
    )

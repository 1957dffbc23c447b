"""Schedules of the lattice: pure functions of the training step."""

from energyflow_mlx.config.lattice import LatticeConfig


def displacement_scale(config: LatticeConfig, step: int) -> float:
    """Factor on the displacement head's output at a training step.

    ``max(scale * decay ** floor((step - warmup) / interval), scale_min)``, constant
    during the warm-up. Evaluation uses ``displacement_scale_min``.
    """
    if step < config.displacement_warmup:
        return config.displacement_scale
    intervals = (step - config.displacement_warmup) // config.displacement_interval
    scale = config.displacement_scale * config.displacement_decay**intervals
    return max(scale, config.displacement_scale_min)


def exploration_sigma(config: LatticeConfig, step: int) -> float:
    """Standard deviation of the exploration noise at a training step.

    Falls linearly from ``exploration_noise`` to 0 over ``exploration_steps``, or
    stays constant when those are 0. Evaluation has no noise.
    """
    if config.exploration_steps == 0:
        return config.exploration_noise
    left = max(0.0, 1.0 - step / config.exploration_steps)
    return config.exploration_noise * left

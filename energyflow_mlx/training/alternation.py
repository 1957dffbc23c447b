"""Which objective an update runs: a pure, seeded function of its number.

Mode A of the reference is ``distillation``, mode B ``reconstruction``. Updates are
spread evenly (error diffusion with a seeded phase), so every stretch of updates
holds the asked-for ratio, and together with the reshuffle of every epoch each
sentence meets both objectives over the epochs.
"""

import math
import random

DISTILLATION = "distillation"
RECONSTRUCTION = "reconstruction"


def _phase(seed: int) -> float:
    """Seeded offset in [0, 1) of the spread."""
    return random.Random(seed).random()


def distillation_count(steps: int, ratio: float, seed: int) -> int:
    """Distillation updates among the first ``steps``.

    count(n) = floor(n * ratio + phase), so count(n + 1) - count(n) is 0 or 1.
    """
    return math.floor(steps * ratio + _phase(seed) * (ratio < 1.0))


def objective_of(step: int, ratio: float, seed: int) -> str:
    """Objective of update ``step`` (from 0).

    Args:
        step: Number of the update, from 0.
        ratio: Share of distillation updates, in [0, 1].
        seed: Chooses the phase of the spread.
    """
    before = distillation_count(step, ratio, seed)
    after = distillation_count(step + 1, ratio, seed)
    return DISTILLATION if after > before else RECONSTRUCTION


def objective_counts(steps: int, ratio: float, seed: int) -> dict[str, int]:
    """Updates of each objective among the first ``steps``."""
    first = distillation_count(steps, ratio, seed) - distillation_count(0, ratio, seed)
    return {DISTILLATION: first, RECONSTRUCTION: steps - first}

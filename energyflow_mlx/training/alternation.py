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
FLOW = "flow"
FLOW_TEXT = "flow_text"

# The objective that takes ``trainer.ratio`` of the updates of each task; the rest are
# reconstruction.
FIRST = {"ab": DISTILLATION, "flow": FLOW, "flow_text": FLOW_TEXT}


def _phase(seed: int) -> float:
    """Seeded offset in [0, 1) of the spread."""
    return random.Random(seed).random()


def distillation_count(steps: int, ratio: float, seed: int) -> int:
    """Distillation updates among the first ``steps``.

    count(n) = floor(n * ratio + phase), so count(n + 1) - count(n) is 0 or 1.
    """
    return math.floor(steps * ratio + _phase(seed) * (ratio < 1.0))


def objective_of(step: int, ratio: float, seed: int, task: str = "ab") -> str:
    """Objective of update ``step`` (from 0).

    Args:
        step: Number of the update, from 0.
        ratio: Share of distillation updates, in [0, 1].
        seed: Chooses the phase of the spread.
        task: Names the first objective, see ``FIRST``.
    """
    before = distillation_count(step, ratio, seed)
    after = distillation_count(step + 1, ratio, seed)
    return FIRST[task] if after > before else RECONSTRUCTION


def objective_counts(
    steps: int, ratio: float, seed: int, task: str = "ab"
) -> dict[str, int]:
    """Updates of each objective among the first ``steps``."""
    first = distillation_count(steps, ratio, seed) - distillation_count(0, ratio, seed)
    return {FIRST[task]: first, RECONSTRUCTION: steps - first}

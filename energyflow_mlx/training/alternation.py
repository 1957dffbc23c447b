"""Which objective an update trains: a pure, seeded function of its number.

Every update goes to the objective that lags furthest behind its share. So any stretch
of updates holds the shares, and together with the reshuffle of every epoch each
sentence meets every objective over the epochs.
"""

import random
from collections.abc import Mapping


class Alternation:
    """The order in which objectives take the updates of a run.

    Update n goes to the objective with the largest deficit

        share_i * (n + 1) + phase_i - (updates it had before n)

    with shares scaled to sum 1; a tie goes to the first one. The phases are seeded, so
    that runs of other seeds do not all begin alike.

    Args:
        shares: Relative share of each objective, in order.
        seed: Seed of the phases.
    """

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        total = sum(shares.values())
        phase = random.Random(seed).random()
        self._names = list(shares)
        self._shares = [share / total for share in shares.values()]
        # Opposite phases: what the first one is ahead, the next one is behind.
        phases = [phase if i % 2 == 0 else 1.0 - phase for i in range(len(shares))]
        self._phases = phases
        self._chosen: list[str] = []
        self._counts = [dict.fromkeys(self._names, 0)]

    def objective_of(self, step: int) -> str:
        """Name of the objective of update ``step``, from 0."""
        self._extend(step + 1)
        return self._chosen[step]

    def counts(self, steps: int) -> dict[str, int]:
        """Updates of each objective among the first ``steps``."""
        self._extend(steps)
        return dict(self._counts[steps])

    def _extend(self, steps: int) -> None:
        """Decide all updates before ``steps``; each follows from those before it."""
        for step in range(len(self._chosen), steps):
            counts = self._counts[step]
            deficits = [
                (step + 1) * share + phase - counts[name]
                for name, share, phase in zip(
                    self._names, self._shares, self._phases, strict=True
                )
            ]
            name = self._names[deficits.index(max(deficits))]
            self._chosen.append(name)
            self._counts.append(counts | {name: counts[name] + 1})

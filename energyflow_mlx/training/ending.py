"""Where a run ends that a signal asked to end: between two updates, the same in all.

One process ends with the update that it is at. Of several, each tells the others with
every update whether it was asked, in the sum of the gradients: a message of its own
would cost as much as one of a million numbers. All end one update after the one that
said so, which is on its way by then everywhere.
"""

import signal
from collections.abc import Sequence
from typing import NoReturn

import mlx.core as mx

from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.runtime.interrupts import Held

ASKED = "asked"
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Says after which update the run ends.

    Args:
        group: The processes that train together.

    Attributes:
        held: Context of the training, in which signals are held back.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self.held = Held()
        self._last: int | None = None
        self._heard: signal.Signals | None = None

    def told(self) -> dict[str, mx.array]:
        """What an update sums over the processes and reports; nothing of one alone.

        Returns:
            1 for the signal that was heard, 0 for the others, ``[3]`` float32.
        """
        if self._group.size == 1:
            return {}
        asked = self.held.asked
        return {ASKED: mx.array([float(number == asked) for number in _NUMBERS])}

    def hear(self, step: int, told: Sequence[float]) -> None:
        """Take what was told with update ``step``: processes that heard each signal."""
        if any(told) and self._last is None:
            heard = [n for n, count in zip(_NUMBERS, told, strict=True) if count]
            self._heard = heard[-1]
            self._last = step + 2

    def is_after(self, step: int) -> bool:
        """Whether the run ends once it has done ``step`` updates."""
        if self._group.size == 1:
            return self.held.asked is not None
        return self._last is not None and step >= self._last

    def end(self) -> NoReturn:
        """Raise the signal that asked for it."""
        self.held.end(self._heard)

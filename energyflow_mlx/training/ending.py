"""Where a run ends that a signal asked to end: between two updates, the same in all.

One process ends with the update that it is at. Of several, each tells the others with
every update whether it was asked, in a sum like that of the gradients; all end one
update after the one that said so, which is on its way by then everywhere.
"""

import signal
from typing import NoReturn

import mlx.core as mx

from energyflow_mlx.runtime.distributed import Group
from energyflow_mlx.runtime.interrupts import Held

ASKED = "asked"
# Summed over the processes of a run, of which there are fewer than 1024.
_WEIGHTS = {signal.SIGINT: 1, signal.SIGTERM: 2**10, signal.SIGHUP: 2**20}


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

    def told(self, before: mx.array) -> dict[str, mx.array]:
        """What goes with the report of an update; nothing where there is one process.

        Args:
            before: An array that the other processes wait for first, too.
        """
        if self._group.size == 1:
            return {}
        asked = self.held.asked
        own = mx.array([_WEIGHTS[asked] if asked else 0], mx.int32)
        (own,) = mx.depends([own], [before])  # or two could sum in different orders
        (total,) = self._group.sum([own])
        return {ASKED: total[0]}

    def hear(self, step: int, total: float) -> None:
        """Take what was told with update ``step``."""
        if total and self._last is None:
            heard = [number for number, w in _WEIGHTS.items() if total >= w]
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

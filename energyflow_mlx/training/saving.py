"""When a checkpoint is due by the clock, so that a kill loses some minutes at most.

Saving is to take 2 % of the time at most: where one save takes long, the next one that
the clock alone asks for waits fifty times as long.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_OF_THE_TIME = 0.02


class SaveClock:
    """Time since the last checkpoint, by a clock that nobody sets back.

    Args:
        minutes: Between two checkpoints; 0 = the clock never asks for one.
        clock: Seconds, never running backwards.
    """

    def __init__(
        self, minutes: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = 60.0 * minutes
        self._clock = clock
        self._last_cost = 0.0
        self._saved_at = clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        wait = max(self._seconds, self._last_cost / MOST_OF_THE_TIME)
        return self._seconds > 0 and self._clock() - self._saved_at >= wait

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context around the writing of a checkpoint; the clock starts anew then."""
        started = self._clock()
        yield
        self._saved_at = self._clock()
        self._last_cost = self._saved_at - started

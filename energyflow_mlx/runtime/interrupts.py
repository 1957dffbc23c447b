"""Ctrl-C (SIGINT) and SIGTERM: at once where nothing is lost by it, else held back.

The first one asks: whoever holds it back looks between two pieces of work and ends
there. A second one does not wait.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from energyflow_mlx.errors import Terminated

_ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Interrupts:
    """Context in which an interrupt is held back; Python hands them to its main thread.

    Args:
        is_held: Hold them back; otherwise, and in other threads, nothing changes.
    """

    def __init__(self, *, is_held: bool) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self._is_held = is_held and is_main
        self._asked: type[KeyboardInterrupt] | None = None
        self._former: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether an end was asked for."""
        return self._asked is not None

    def end(self) -> NoReturn:
        """Raise what was asked for: ``KeyboardInterrupt`` or ``Terminated``."""
        assert self._asked is not None
        raise self._asked

    def __enter__(self) -> "Interrupts":
        """Hold interrupts back from here on."""
        for number in _ERRORS if self._is_held else ():
            # A job in the background of a shell ignores Ctrl-C, and goes on doing so.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Handle them as before; one that nobody looked at is not forgotten."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._asked is not None and _error is None:
            self.end()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        error = _ERRORS[signal.Signals(number)]
        if self._asked is not None:
            raise error
        self._asked = error

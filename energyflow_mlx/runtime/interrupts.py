"""The three signals that ask a process to end: SIGINT (Ctrl-C), SIGTERM, SIGHUP.

Three moments, three answers. While a command's own modules are imported, nothing was
begun: ``install`` ends the process with one line. While a command works, ``Raised``
raises ``Interrupted`` where the main thread stands, so that what is half-written is
cleaned up. While a run trains, ``Held`` takes a note, and the loop ends between two
updates; a second signal does not wait. A signal that the process was started to ignore
(``nohup``, a job in the background) stays ignored.
"""

import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Collection
from types import FrameType, TracebackType
from typing import Any, NoReturn

from energyflow_mlx.errors import Interrupted

# What a process says that ends by each of them.
WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}
# The shell's own number for a process that a signal ended.
STATUS = {number: 128 + number for number in WORDS}
# Seconds that a second signal leaves the main thread to clean up: it may be inside a
# compiler or a kernel, where Python cannot reach it.
GRACE_S = 5.0
_RETRY_S = 0.05
_COMMANDS = ("energyflow", "energyflow_mlx")

_Handlers = dict[int, Any]


def install() -> None:
    """Let a signal end a command that is still importing: one line, no traceback.

    Does nothing in a process that is not one of the package's commands.
    """
    if _is_command() and threading.current_thread() is threading.main_thread():
        sys.excepthook = _say_interrupted
        _take_over(_end_now)


def _is_command() -> bool:
    """Whether this process was started as ``energyflow`` or ``-m energyflow_mlx...``.

    Python has not put the module's path in the place of ``-m`` yet while its package
    is imported.
    """
    if sys.argv[0] != "-m":
        return os.path.basename(sys.argv[0]) == _COMMANDS[0]
    module = (
        sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else ""
    )
    return module.partition(".")[0] == _COMMANDS[1]


def of(error: BaseException | None) -> signal.Signals | None:
    """The signal that an error comes from, or none.

    A compiled module that is interrupted while it is imported raises an error of its
    own with the interrupt as its cause.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, Interrupted):
            return error.number
        if isinstance(error, KeyboardInterrupt):
            return signal.SIGINT
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


class Raised:
    """Context of a command: a signal raises ``Interrupted``, and none is lost.

    Python drops what is raised inside a callback, of the garbage collector or of an
    import lock; such an interrupt is raised again. After a second signal the process
    ends within ``GRACE_S``, wherever it is.
    """

    _watch: "_Watch | None" = None

    def __enter__(self) -> "Raised":
        """Take the signals over; Python lets its main thread alone do so."""
        self._former: _Handlers = {}
        self._own: _Watch | None = None
        if threading.current_thread() is threading.main_thread():
            self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
            self._hook = sys.unraisablehook
            if Raised._watch is None:
                Raised._watch = self._own = _Watch()
            self._former = _take_over(self._raise)
            sys.unraisablehook = self._unraisable
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Handle them as before."""
        _give_back(self._former)
        if self._former:
            sys.unraisablehook = self._hook
        if self._own is not None:
            self._own.close()
            Raised._watch = None

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        leave_lost_outputs(self._terminals)
        raise Interrupted(number)

    def _unraisable(self, dropped: Any) -> None:
        """Raise a dropped interrupt again, once its callback has returned."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            self._hook(dropped)
            return
        number = of(dropped.exc_value) or signal.SIGINT
        main = threading.main_thread().ident
        again = threading.Timer(_RETRY_S, signal.pthread_kill, [main, number])
        again.daemon = True
        again.start()


class Held:
    """Context of a training: a signal is noted, and the loop ends where it can.

    Nothing changes where this is not the main thread.
    """

    _present: "Held | None" = None

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._former: _Handlers = {}

    @classmethod
    def hang_up(cls) -> None:
        """Do as if the terminal had closed, for output that nobody reads any more.

        Not where an end was asked for already: a second signal would not wait for it.
        """
        leave_lost_outputs()
        if cls._present is None or cls._present.asked is None:
            signal.raise_signal(signal.SIGHUP)

    @property
    def asked(self) -> signal.Signals | None:
        """The signal that asked for an end, if one did."""
        return self._asked

    def end(self, number: signal.Signals | None = None) -> NoReturn:
        """Raise what was asked for here, or of another process of the run.

        Args:
            number: The signal, where another process got it.
        """
        asked = number or self._asked
        assert asked is not None
        self._asked = asked
        leave_lost_outputs()  # of a launcher, which has gone with its pipes
        raise Interrupted(asked)

    def __enter__(self) -> "Held":
        """Hold signals back from here on."""
        if threading.current_thread() is threading.main_thread():
            self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
            self._former = _take_over(self._note)
            Held._present = self
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Handle them as before; one that nobody looked at is not forgotten."""
        _give_back(self._former)
        Held._present = None
        if self._asked is not None and error is None:
            self.end()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        leave_lost_outputs(self._terminals)
        if self._asked is not None:
            raise Interrupted(number)
        self._asked = signal.Signals(number)


class _Watch:
    """Sees signals that the main thread is too busy to see; ends it after two."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._closed = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        count = 0
        while byte := os.read(self._read, 1):
            count += byte[0] in STATUS
            if count > 1 and not self._closed.wait(GRACE_S):
                _end_now(byte[0], None)
        os.close(self._read)

    def close(self) -> None:
        """The command has ended by itself."""
        self._closed.set()
        signal.set_wakeup_fd(self._former)
        os.close(self._write)


def leave_lost_outputs(terminals: Collection[int] = ()) -> None:
    """Let output to a terminal or a pipe's reader which has gone go nowhere.

    Every write to it would fail from now on, in the middle of a save too.

    Args:
        terminals: File descriptors that were terminals.
    """
    for descriptor in (1, 2):
        is_terminal = descriptor in terminals
        if (_has_gone if is_terminal else _has_no_reader)(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _has_gone(terminal: int) -> bool:
    try:
        termios.tcgetattr(terminal)
    except termios.error:
        return True
    return False


def _has_no_reader(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    lost = select.POLLERR | select.POLLHUP
    return any(state & lost for _, state in poll.poll(0))


def _take_over(handler: Callable[[int, FrameType | None], Any]) -> _Handlers:
    """Handle the signals that are not ignored; returns their former handlers."""
    numbers = [n for n in WORDS if signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _give_back(former: _Handlers) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)


def _end_now(number: int, _frame: FrameType | None) -> NoReturn:
    """End here: imports and compiled code would turn an exception into another."""
    os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
    os._exit(STATUS[signal.Signals(number)])


def _say_interrupted(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Last stop of an error: an interrupt between two contexts is one line too."""
    if (number := of(error)) is None:
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stdout.flush()
    _end_now(number, None)

"""Work ahead on a thread, and end it cleanly."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

_T = TypeVar("_T")
# How long a full queue is waited for before the thread looks whether to stop, seconds.
_PATIENCE_S = 0.05


class _End:
    """Last message of the thread: nothing more, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[_T], depth: int) -> Generator[_T]:
    """Yield ``items`` while a thread computes up to ``depth`` of them ahead.

    An error of ``items`` is raised here, after the items before it. Closing this
    iterator (or dropping it) ends the thread before ``close`` returns.

    Args:
        items: Consumed on the thread only.
        depth: Finished items waiting at most; at least 1.
    """
    if depth < 1:
        raise ValueError(f"[prefetch] depth must be at least 1, got {depth}.")
    return _consume(items, depth)


def _consume(items: Iterable[_T], depth: int) -> Generator[_T]:
    ready: queue.Queue[_T | _End] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(items, ready, stop), name="prefetch", daemon=True
    )
    thread.start()
    try:
        while True:
            item = ready.get()
            if not isinstance(item, _End):
                yield item
                continue
            if item.error is not None:
                raise item.error
            return
    finally:
        stop.set()
        thread.join()


def _produce(items: Iterable[_T], ready: queue.Queue, stop: threading.Event) -> None:
    end = _End(None)
    try:
        for item in items:
            if not _put(item, ready, stop):
                return
    except BaseException as error:  # handed over: the consumer raises it
        end = _End(error)
    _put(end, ready, stop)


def _put(item: object, ready: queue.Queue, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=_PATIENCE_S)
        except queue.Full:
            continue
        return True
    return False

"""The thread works ahead, hands over errors, and ends when the reader does."""

import gc
import itertools
import threading
import time

import pytest

from energyflow_mlx.data.prefetch import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_items_come_in_order_and_end():
    assert list(prefetch(range(50), depth=3)) == list(range(50))
    assert threads() == []


def test_it_works_ahead_but_not_further_than_depth():
    made = []
    stream = prefetch((made.append(i) or i for i in range(100)), depth=2)
    assert next(stream) == 0
    wait_until(lambda: len(made) == 4)  # read 1, waiting 2, in hand 1
    time.sleep(0.15)
    assert len(made) == 4
    stream.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise RuntimeError("damaged row")

    stream = prefetch(items(), depth=2)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(RuntimeError, match="damaged row"):
        next(stream)
    assert threads() == []


def test_closing_ends_the_thread():
    stream = prefetch(itertools.count(), depth=2)
    next(stream)
    assert len(threads()) == 1
    stream.close()
    assert threads() == []


def test_dropping_the_reader_ends_the_thread():
    stream = prefetch(itertools.count(), depth=2)
    next(stream)
    del stream
    gc.collect()
    assert threads() == []


def test_closing_before_the_first_item_starts_no_thread():
    prefetch(itertools.count(), depth=2).close()
    assert threads() == []


def test_an_error_in_the_reader_ends_the_thread():
    with pytest.raises(KeyError):
        for _ in prefetch(itertools.count(), depth=2):
            raise KeyError
    gc.collect()
    assert threads() == []


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        prefetch([], depth=0)

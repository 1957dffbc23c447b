"""Signals that are raised, held back, and dropped by Python on their way."""

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from energyflow_mlx.config.command_line import clean_exit
from energyflow_mlx.errors import Interrupted
from energyflow_mlx.runtime import interrupts
from energyflow_mlx.runtime.interrupts import Held, Raised


class Thing:
    """What a weak reference can point to."""


def test_an_interrupt_that_a_callback_drops_is_raised_again():
    """Python prints and forgets what a callback raises; import locks have such."""

    def callback(_):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

    thing = Thing()
    reference = weakref.ref(thing, callback)
    with pytest.raises(Interrupted) as ended, Raised():
        del thing
        time.sleep(5)
    assert ended.value.number == signal.SIGTERM and reference() is None


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with clean_exit(), Held() as held:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert held.asked is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_held_signal_is_not_forgotten_where_nobody_looks():
    with pytest.raises(Interrupted), Held() as held:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        assert held.asked == signal.SIGINT


def test_the_error_behind_a_signal_is_found_in_what_it_became():
    error = ImportError("a compiled module")
    error.__cause__ = Interrupted(signal.SIGHUP)
    assert interrupts.of(error) == signal.SIGHUP
    assert interrupts.of(KeyboardInterrupt()) == signal.SIGINT
    assert interrupts.of(ImportError()) is None


BUSY = """
import hashlib, os, signal, threading, time
from energyflow_mlx.config.command_line import clean_exit
from energyflow_mlx.runtime import interrupts
interrupts.GRACE_S = 0.2
def send():
    for _ in range(2):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
with clean_exit():
    threading.Thread(target=send).start()
    # As in a compiler: Python's main thread is elsewhere for minutes.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


def test_a_second_signal_ends_a_process_that_python_cannot_reach(checkout):
    done = subprocess.run(
        [sys.executable, "-c", BUSY],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=100,  # the digest itself takes longer
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr == "terminated\n"


def test_a_library_leaves_the_signals_of_its_program_alone(checkout):
    code = (
        "import signal\nbefore = signal.getsignal(2), signal.getsignal(15)\n"
        "import energyflow_mlx\n"
        "assert before == (signal.getsignal(2), signal.getsignal(15))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)

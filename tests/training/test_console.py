"""A reader of the output that goes away ends a training as a closed terminal does."""

import io
import os
import signal
import sys

import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.errors import Interrupted
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.interrupts import Held
from energyflow_mlx.training.console import RunConsole
from tests.build.test_run import small


class Left(io.StringIO):
    """Output whose reader goes when it sees the first update."""

    def write(self, text):
        if text.startswith("step"):
            raise BrokenPipeError
        return super().write(text)


def test_a_run_whose_reader_goes_is_saved_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Left())
    with pytest.raises(Interrupted) as caught:
        run(small(tmp_path, {"trainer.max_steps": 50, "trainer.log_every": 1}))
    assert caught.value.number == signal.SIGHUP
    assert RunFolder(tmp_path / "run").steps()[-1] in (1, 2)


def test_a_reader_that_goes_after_a_signal_is_no_second_signal(monkeypatch):
    """A launcher that was ended with its processes takes its pipes with it."""
    monkeypatch.setattr(sys, "stdout", Left())
    with pytest.raises(Interrupted) as caught, Held() as held:
        signal.raise_signal(signal.SIGTERM)
        RunConsole().print("step 1")
        assert held.asked == signal.SIGTERM
        held.end()
    assert caught.value.number == signal.SIGTERM


def test_a_process_that_ignores_sighup_goes_on_in_silence(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Left())
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Held() as held:
            console = RunConsole()
            console.print("step 1")
            console.print("step 2")
        assert held.asked is None and sys.stdout.getvalue() == ""
    finally:
        signal.signal(signal.SIGHUP, former)


def test_what_is_written_after_a_reader_has_gone_goes_nowhere(tmp_path):
    """Standard error of a launched process, whose launcher was ended."""
    code = (
        "import os, sys; from energyflow_mlx.runtime.interrupts import "
        "leave_lost_outputs; sys.stdin.readline(); leave_lost_outputs(); "
        "os.write(2, b'x'); os.write(1, b'kept')"
    )
    to_child, child_in = os.pipe()
    errors, child_errors = os.pipe()
    kept = tmp_path / "out"
    with kept.open("wb") as out:
        actions = [
            (os.POSIX_SPAWN_DUP2, to_child, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, child_errors, 2),
        ]
        words = [sys.executable, "-c", code]
        child = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions)
    os.close(child_errors)
    os.close(errors)
    os.write(child_in, b"\n")
    _, status = os.waitpid(child, 0)
    os.close(to_child)
    os.close(child_in)
    assert os.waitstatus_to_exitcode(status) == 0 and kept.read_bytes() == b"kept"

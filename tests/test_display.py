"""A live block on a terminal, plain lines everywhere else."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from energyflow_mlx.display import (
    RunDisplay,
    format_duration,
    format_table,
    format_value,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def plain_display(**options):
    stream = io.StringIO()
    return RunDisplay(console=Console(file=stream, width=80), **options), stream


def live_display(width=80):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=30)
    return RunDisplay(console=console), stream


# -- Plain -----------------------------------------------------------------------------


def test_plain_progress_is_one_line_per_log_every_and_the_last():
    display, stream = plain_display(log_every=10)
    with display:
        for step in range(1, 36):
            display.progress(step, 35, {"loss": 1.0 / step})
    steps = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert steps == ["1/35", "10/35", "20/35", "30/35", "35/35"]


def test_plain_progress_copes_with_steps_that_skip_the_multiples():
    display, stream = plain_display(log_every=10)
    for step in (7, 14, 21, 28, 35):
        display.progress(step, 100, {"loss": 1.0})
    steps = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert steps == ["7/100", "14/100", "21/100", "35/100"]


def test_alternating_objectives_keep_each_others_values_in_a_fixed_order():
    display, stream = plain_display(log_every=1)
    display.progress(1, 9, {"samples_per_second": 1234.0, "loss": 0.5, "cosine": 0.9})
    display.progress(2, 9, {"lr": 3e-4, "ce": 2.5, "grad_norm": 1.0})
    line = stream.getvalue().splitlines()[-1]
    assert line.startswith(
        "step 2/9  loss 0.5000  cosine 0.9000  CE 2.5000  lr 3.00e-04  samples/s 1,234"
    )


def test_eta_follows_the_measured_speed_also_after_a_resume():
    clock = Clock()
    display, stream = plain_display(log_every=1, clock=clock)
    display.progress(900, 1000, {})  # before the first step: no line, but a start
    for step in (901, 902, 903):
        clock.now += 2.0
        display.progress(step, 1000, {"loss": 1.0})
    etas = [line.split("ETA ")[1] for line in stream.getvalue().splitlines()]
    assert etas == ["3:18", "3:16", "3:14"]


def test_plain_output_has_no_escapes_boxes_or_cut_lines():
    display, stream = plain_display()
    path = "/a/long/path" * 20
    display.header({"device": "cpu", "parameters": ["encoder 1", "decoder 2"]})
    display.header({"run": path})
    display.table("Results", ["measure", "value"], [["x" * 100, 0.5], ["n", 3]])
    text = stream.getvalue()
    assert text.isascii() and "\x1b" not in text
    assert path in text and "x" * 100 in text
    assert (
        "  device      cpu\n  parameters  encoder 1\n              decoder 2\n" in text
    )


def test_plain_side_task_reports_a_few_lines():
    display, stream = plain_display()
    with display.task("teacher vectors") as report:
        for done in range(0, 1001, 10):
            report(done, 1000)
    counts = [line.split()[2] for line in stream.getvalue().splitlines()]
    assert counts == [f"{n}/1000" for n in (0, 200, 400, 600, 800, 1000)]


def test_messages_are_shown_as_they_are():
    display, stream = plain_display()
    text = "saved [b]best[/b] " + "x" * 200
    display.message(text)
    assert stream.getvalue() == text + "\n"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), force_terminal=True)
    assert not RunDisplay(console=console).is_live


# -- Live ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_live_block_fits_the_terminal_and_shows_everything(width):
    display, stream = live_display(width)
    values = {"loss": 0.1234, "cosine": 0.9123, "CE": 2.3456, "lr": 3e-4}
    with display:
        display.header({"run": "/p" * 100})
        display.progress(1234, 8000, values | {"samples/s": 1234.5})
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", stream.getvalue()).splitlines()
    assert max(len(line.strip("\r")) for line in lines) <= width
    text = "\n".join(lines)
    for part in ("1,234/8,000", "15 %", "ETA", "loss 0.1234", "samples/s 1,234"):
        assert part in text


def test_live_cursor_comes_back_after_an_exception():
    display, stream = live_display()
    with pytest.raises(KeyboardInterrupt), display:
        display.progress(1, 10, {"loss": 1.0})
        raise KeyboardInterrupt
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_log_handlers_are_turned_and_restored():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    display, drawn = live_display()
    try:
        with display:
            display.progress(1, 10, {"loss": 1.0})
            logging.getLogger("test").warning("over [b]here[/b]")
            assert "over [b]here[/b]" in drawn.getvalue()
        assert handler.stream is stream and stream.getvalue() == ""
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_finished_task_leaves_and_a_finished_training_stays():
    display, stream = live_display()
    with display:
        with display.task("teacher [vectors]") as report:
            report(1, 2)
        assert display._live is None
        display.progress(5, 5, {"loss": 0.5})
        assert display._live is not None, "the last validation is still to come"
        display.close()
        display.message("after")
    assert "teacher [vectors]" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("after")


def test_a_real_terminal_is_live_and_a_pipe_is_not(checkout):
    code = (
        "from energyflow_mlx.display import RunDisplay\n"
        "with RunDisplay() as d:\n"
        "    d.header({'live': d.is_live})\n"
        "    d.progress(1, 2, {'loss': 1.0})\n"
    )
    command = [sys.executable, "-c", code]
    piped = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, check=True
    )
    lines = piped.stdout.splitlines()
    assert lines[:2] == ["energyflow_mlx", "  live  False"]
    assert lines[2] == "step 1/2  loss 1.0000  ETA -:--"
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        command, cwd=checkout, stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        drawn = b""
        while chunk := _read(ours):
            drawn += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"True" in drawn and b"\x1b[?25l" in drawn


def _read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end was closed
        return b""


# -- Formatting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0"), (0.95123, "0.9512"), (-1.5, "-1.5000"), (12.345, "12.35")],
        *[(1234.5, "1,234"), (3e-4, "3.00e-04"), (float("nan"), "nan")],
        *[(float("-inf"), "-inf"), (12345, "12,345"), (None, "-"), (True, "True")],
        ("text", "text"),
    ],
)
def test_numbers_are_shown_with_about_four_digits(value, text):
    assert format_value(value) == text


def test_durations():
    shown = [format_duration(s) for s in (0, 59.6, 61, 3599, 3600, 90061)]
    assert shown == ["0:00", "1:00", "1:01", "59:59", "1:00:00", "25:01:01"]


def test_tables_align_numbers_to_the_right():
    table = format_table(["job", "cosine"], [["a", 0.5], ["long name", None]])
    assert table.splitlines() == [
        "job        cosine",
        "---------  ------",
        "a          0.5000",
        "long name       -",
    ]
    assert format_table(["a"], []) == "a\n-"


def test_log_every_must_be_positive():
    with pytest.raises(ValueError, match="log_every must be at least 1, got 0"):
        RunDisplay(log_every=0)


# -- What moves, and what stays whole -------------------------------------------------


def visible(stream):
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", stream.getvalue())


def test_the_block_moves_by_itself_while_nothing_is_reported():
    display, stream = live_display()
    with display:
        display.progress(0, 10, {})
        deadline = time.monotonic() + 60
        with display.doing("saving"):
            while turns(stream) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def turns(stream):
    """How often the spinner beside "saving" has changed."""
    frames = re.findall(r"([-\\|/]) saving", visible(stream))
    return sum(a != b for a, b in zip(frames, frames[1:], strict=False))


def test_the_bar_says_what_the_run_does_and_goes_back():
    display, stream = live_display()
    with display:
        display.progress(0, 10, {})
        assert "first update" in visible(stream)
        display.advance(1, 10)
        with display.doing("validating"):
            display.message("in between")
        display.advance(2, 10)
    text = visible(stream)
    assert "validating" in text and text.rindex(" train ") > text.rindex("validating")
    assert "2/10" in text


def test_a_task_is_on_the_screen_before_it_reports():
    display, stream = live_display()
    with display, display.task("reading"):
        assert "reading" in visible(stream)
    display, stream = plain_display()
    with display, display.task("reading"):
        assert stream.getvalue() == ""


def test_the_block_leaves_room_for_the_echo_of_an_interrupt():
    """Else ^C begins another line, and a second bar stays on the screen."""
    display, stream = live_display(80)
    values = {f"value number {n}": float(n) for n in range(9)}
    with display:
        display.progress(3, 10, values)
    lines = [line.strip("\r") for line in visible(stream).splitlines()]
    assert max(map(len, lines)) <= 77


def test_words_of_messages_and_samples_stay_whole_on_a_terminal():
    display, stream = live_display(40)
    words = [f"word{n}" for n in range(60)]
    display.message(" ".join(words))
    display.lines([("decoded", " ".join(words))])
    found = visible(stream).split()
    assert [w for w in found if w.startswith("word")] == words * 2
    assert max(map(len, visible(stream).splitlines())) <= 40


def test_a_title_longer_than_its_table_stays_on_one_line():
    display, stream = live_display(80)
    display.table("Held-out sentences, update 300", ["a", "b"], [["x", 1]])
    assert "Held-out sentences, update 300" in visible(stream)


def test_a_long_command_goes_on_after_a_backslash_and_still_runs():
    display, stream = live_display(40)
    display.command(["echo", "'a b'", "one=" + "1" * 20, "two=" + "2" * 20])
    lines = visible(stream).splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 40
    ran = subprocess.run(
        ["sh", "-c", visible(stream)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"a b one={'1' * 20} two={'2' * 20}\n"
    display, stream = plain_display()
    display.command(["echo", "x" * 100])
    assert stream.getvalue() == f"  echo {'x' * 100}\n"

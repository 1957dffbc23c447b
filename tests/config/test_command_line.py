"""The help of the entry points, as a user asks for it."""

import dataclasses
import os
import signal

import pytest

from energyflow_mlx.config import command_line as cli
from energyflow_mlx.runtime.atomic import write_aside
from tests.commands import run_command

COMMANDS = (
    *("plot", "encode", "decode", "evaluate", "prepare", "export"),
    *("doctor", "sweep_report"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_its_keys(command):
    done = run_command(command, "--help")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == f"usage: python -m energyflow_mlx.{command} key=value ..."
    assert any(line.startswith("  ") and "(" in line for line in rest)
    assert not done.stderr


@dataclasses.dataclass
class Inner:
    path: str | None = dataclasses.field(default=None, metadata={"help": "of a file"})


@dataclasses.dataclass
class Outer:
    """What it does."""

    needed: str = dataclasses.field(default="???", metadata={"help": "a word"})
    group: Inner = dataclasses.field(default_factory=Inner)
    loud: bool = dataclasses.field(default=True, metadata={"help": "or not"})


@pytest.mark.parametrize("word", ["-", "on", "no", "007", "1e3", "0x10", "2026-11-22"])
def test_a_text_is_what_was_typed(word):
    assert cli.parse(Outer, [f"needed={word}"]).needed == word


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_command_after_it_has_cleaned_up(
    number, status, word, tmp_path, capsys
):
    # A job in the background of a shell ignores Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, cli.clean_exit():
        with write_aside(tmp_path / "out.txt") as aside:
            aside.write_text("half")
            os.kill(os.getpid(), number)
    signal.signal(signal.SIGINT, ctrl_c)
    assert stop.value.code == status
    assert capsys.readouterr().err == f"{word}\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is former


@pytest.mark.parametrize(
    "said",
    [
        "cudaMallocAsync(&data, size, stream) failed: out of memory",  # seen on an H200
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
        "[malloc] Unable to allocate 3600000000 bytes.",
    ],
)
def test_a_device_without_room_is_one_line_and_status_2(said, capsys):
    with pytest.raises(SystemExit) as stop, cli.clean_exit():
        raise RuntimeError(said)
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert line.startswith(f"error: [memory] the device has no room: {said}")
    assert "trainer.micro_batch" in line
    assert line.count("\n") == 1


def test_another_failure_of_the_device_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="illegal"), cli.clean_exit():
        raise RuntimeError("an illegal memory access was encountered")


def test_help_names_every_key_as_it_is_typed():
    lines = cli.usage(Outer, "ours").splitlines()
    assert lines[:3] == ["usage: ours key=value ...", "", "What it does."]
    assert [line.split(maxsplit=1) for line in lines[4:7]] == [
        ["needed", "a word (required)"],
        ["group.path", "of a file (default none)"],
        ["loud", "or not (default true)"],
    ]
    filled = cli.parse(Outer, ["needed=x", "group.path=y", "loud=false"])
    assert (filled.needed, filled.group.path, filled.loud) == ("x", "y", False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_that_is_no_key_and_value_is_one_line_and_status_2(command):
    done = run_command(command, "--json")
    assert done.returncode == 2
    assert done.stderr == "error: [arguments] expected key=value, got '--json'.\n"

"""The help of the entry points, as a user asks for it."""

import subprocess
import sys

import pytest

COMMANDS = ("plot", "encode", "decode", "evaluate", "prepare")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_its_keys(command):
    words = [sys.executable, "-m", f"energyflow_mlx.{command}", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == f"usage: python -m energyflow_mlx.{command} key=value ..."
    assert any(line.startswith("  ") and "(" in line for line in rest)
    assert not done.stderr

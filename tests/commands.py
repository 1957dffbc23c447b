"""The package's commands, run as a user runs them."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def run_command(module, *words, stdin=None):
    """A finished ``python -m energyflow_mlx.MODULE WORDS``, whatever its status.

    Args:
        module: Name of the command.
        words: Its arguments.
        stdin: What it reads on standard input.
    """
    return subprocess.run(
        [sys.executable, "-m", f"energyflow_mlx.{module}", *map(str, words)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=300,
        check=False,
    )

"""The package as others get it: an archive built from a checkout, installed apart."""

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT = 120


def run(*command, cwd, **environment):
    """What a finished ``python COMMAND`` wrote; it must end with status 0.

    Args:
        command: Words after the interpreter.
        cwd: Folder it is run in.
        **environment: Variables beside those that are set, ``PYTHONPATH`` left out.
    """
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source, out, target):
    """Path of the archive that is built into an empty folder.

    Args:
        source: A checkout, or an unpacked source archive.
        out: The folder.
        target: ``wheel`` or ``sdist``.
    """
    run("-m", "hatchling", "build", "-t", target, "-d", out, cwd=source)
    (archive,) = Path(out).iterdir()
    return archive


def install(wheel, target):
    """Put a wheel alone into a folder; what it needs is installed already."""
    options = ("--no-deps", "--no-index", "--no-compile", "--target", target)
    words = ("-q", "--disable-pip-version-check", "install", *options, wheel)
    run("-m", "pip", *words, cwd=target)

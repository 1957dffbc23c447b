"""One script on every device that MLX has here, each in a process of its own.

What runs where is decided once in a process, so that two devices never share one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from energyflow_mlx.runtime import device


def each_device(script: str, *words: str) -> Iterator[tuple[str, Any]]:
    """Run ``script --device NAME`` on each device, the CPU first; what each gave.

    Raises:
        RuntimeError: A process failed; its errors are on standard error.
    """
    for name in reversed(device.available()):
        done = subprocess.run(
            [sys.executable, script, *words, "--device", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"[devices] {script} failed on {name}.")
        yield name, json.loads(done.stdout.splitlines()[-1])


def serve(name: str, measure: Callable[[], Any]) -> None:
    """Measure on one device and print what was found as the last line."""
    device.select(name)
    print(json.dumps(measure()))

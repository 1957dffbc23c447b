"""Several real processes joined by MLX's ring, as ``mlx.launch`` joins them."""

import contextlib
import json
import os
import socket
import subprocess
import sys

from tests.commands import CHECKOUT

DO_NOT_COMPILE = {"MLX_DISABLE_COMPILE": "1"}


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(size, folder, words, others=None, *, compiles=False):
    """Start ``python WORDS`` ``size`` times; returns the processes.

    Args:
        size: Number of processes.
        folder: For the file that names their ports.
        words: Arguments of each.
        others: Other arguments of some, by rank.
        compiles: Whether ``mx.compile`` does anything.
    """
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
    # Each process compiles for itself: seconds for every expression.
    environment = dict(os.environ) if compiles else os.environ | DO_NOT_COMPILE
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (others or {}).get(rank, words))],
            cwd=CHECKOUT,
            env=environment | {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes, timeout=150):
    """Their output and errors once all have ended; none outlives the timeout."""
    try:
        return [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def call(function, size, folder, *arguments, compiles=False):
    """Call a test module's function in ``size`` processes; refuses a failed one."""
    words = [function.__module__, function.__name__]
    code = "from {} import {} as f; import sys; f(*sys.argv[1:])".format(*words)
    processes = start(size, folder, ["-c", code, *arguments], compiles=compiles)
    outputs = finish(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return outputs

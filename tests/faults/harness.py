"""Real processes that a fault strikes, and what they leave behind.

``Processes`` runs commands of the package, each a real process: killed at an instant or
before one of its file operations, on a disk that fills up, or left alone.
``FreshProcesses`` starts each on its own, for devices whose driver cannot be forked.
"""

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.commands import CHECKOUT

HERE = Path(__file__).parent
KILLED = -9
_COMPILING = 900  # seconds


def reason_not_to_run():
    """Why faults cannot be planted here, or nothing."""
    if platform.system() != "Linux":
        return "needs Linux: file operations are watched through LD_PRELOAD"
    return None if shutil.which("gcc") else "needs gcc, for tests/faults/shim.c"


@functools.cache
def shim():
    """Path of the compiled ``shim.c``."""
    folder = tempfile.mkdtemp(prefix="energyflow_faults_")
    library = Path(folder, "shim.so")
    words = ("-std=gnu11", "-O1", "-fPIC", "-shared", "-o", library, HERE / "shim.c")
    subprocess.run(["gcc", *words, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Its exit status; ``KILLED`` where SIGKILL ended it.
        output: What it wrote to its terminal.
        operations: Its file operations, ``"rename /run/config.json"`` each.
    """

    status: int
    output: str
    operations: tuple[str, ...] = ()

    @property
    def is_one_line(self):
        """Whether it ended in one line that says why, and status 2."""
        lines = self.output.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        is_traced = any(line.startswith("Traceback") for line in lines)
        return self.status == 2 and len(errors) == 1 and not is_traced


class Processes:
    """Starts commands out of one process that has imported everything.

    Args:
        folder: For what the processes write beside their work: output and traces.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"LD_PRELOAD": str(shim())}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=CHECKOUT,
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def run(self, folder, *words, mode="count", at=0, kill_after=None, timeout=120):
        """Run ``energyflow WORDS`` in a folder and wait for its end.

        Args:
            folder: Where it runs; operations below it are the ones that count.
            words: Command and keys.
            mode: One of ``server.MODES``, or nothing: the operations are not watched.
            at: The operation that is struck, from 1.
            kill_after: Seconds after which it is killed.
            timeout: Seconds after which it hangs; it is killed, and that is an error.
        """
        self._count += 1
        output = self.folder / f"output-{self._count}"
        trace = self.folder / f"trace-{self._count}"
        job = {"words": [*map(str, words)], "folder": str(Path(folder).resolve())}
        job |= {"output": str(output), "trace": str(trace), "mode": mode, "at": at}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        hangs = threading.Event()
        seconds = timeout if kill_after is None else kill_after
        timer = threading.Timer(seconds, _kill, (child, hangs))
        timer.start()
        try:
            status = int(self._server.stdout.readline())
        finally:
            timer.cancel()
        if hangs.is_set() and kill_after is None:
            raise TimeoutError(f"{words} did not end in {timeout} s, operation {at}")
        ended = Ended(status, _take(output), _operations(_take(trace)))
        return ended


class FreshProcesses:
    """Starts every command as a user does: on a GPU nothing can be forked.

    They are killed at an instant or left alone; file operations are not watched.

    Args:
        folder: For what the processes write beside their work.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, folder, *words, kill_after=None):
        """Run ``energyflow WORDS`` in a folder and wait for its end.

        Args:
            folder: Where it runs.
            words: Command and keys.
            kill_after: Seconds after which it is killed.
        """
        output = self.folder / "output"
        # Kernels are compiled in the first process: minutes for a lattice.
        seconds = _COMPILING if kill_after is None else kill_after
        with output.open("w") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "energyflow_mlx", *map(str, words)],
                **{"cwd": folder, "stdout": file, "stderr": subprocess.STDOUT},
                **{"stdin": subprocess.DEVNULL, "env": _environment()},
            )
            hangs = threading.Event()
            timer = threading.Timer(seconds, _kill, (child.pid, hangs))
            timer.start()
            try:
                status = child.wait()
            finally:
                timer.cancel()
        if hangs.is_set() and kill_after is None:
            raise TimeoutError(f"{words} did not end in {seconds} s")
        return Ended(status, _take(output))


def _environment():
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _kill(child, hangs):
    hangs.set()
    os.kill(child, 9)


def _take(file):
    """Text of a file that goes away."""
    if not file.exists():
        return ""
    text = file.read_text(encoding="utf-8", errors="replace")
    file.unlink()
    return text


def _operations(trace):
    return tuple(line.partition(" ")[2] for line in trace.splitlines())

"""What someone sent, opened in a process of its own: the answer, the memory, the time.

One child imports the package and then forks for every file: a reader that hangs, dies
or eats memory ends its own process alone.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 20
# Address space that a reader may have beside what the package itself maps.
MOST_BYTES = 6 << 30


class Answer(NamedTuple):
    """How a reader ended.

    Attributes:
        status: ``read``, ``refused``, ``error`` (any other exception) or ``died``.
        message: Of the exception, or the signal.
        grown: Bytes that its resident memory has grown by at most.
        warnings: Lines that the package logged meanwhile.
        seconds: That it took.
    """

    status: str
    message: str
    grown: int
    warnings: list[str]
    seconds: float


class Opener:
    """The child that opens files; a context."""

    def __enter__(self):
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.opened"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self._child.stdin.close()
        self._child.wait(timeout=30)
        self._child.stdout.close()

    def open(self, reader, path):
        """The answer of one of ``readers`` to a path."""
        self._child.stdin.write(json.dumps([reader, str(path)]) + "\n")
        self._child.stdin.flush()
        return Answer(*json.loads(self._child.stdout.readline()))


def readers():
    """Every reader of things that come from others, by name."""
    import energyflow_mlx
    from energyflow_mlx.config import read_config
    from energyflow_mlx.data.efb import EFBReader
    from energyflow_mlx.data.jsonl import read_jsonl
    from energyflow_mlx.data.provenance import read_provenance
    from energyflow_mlx.data.sources import read_texts
    from energyflow_mlx.data.vectors import open_matrix
    from energyflow_mlx.evaluation.similarity import read_sts
    from energyflow_mlx.plots.facts import read_facts
    from energyflow_mlx.runs.checkpoint import load_best
    from energyflow_mlx.runs.folder import RunFolder
    from energyflow_mlx.runs.metrics import read_metrics
    from energyflow_mlx.runs.swift_files import read_efck1, read_efop1
    from energyflow_mlx.runs.weights import load_full
    from energyflow_mlx.teacher.load import load_teacher
    from energyflow_mlx.text.tokenizer import Tokenizer

    return {
        "model": energyflow_mlx.load,
        "config": read_config,
        "efb": EFBReader,
        "note": read_provenance,
        "jsonl": read_jsonl,
        "texts": read_texts,
        "vectors": open_matrix,
        "sts": read_sts,
        "facts": lambda path: read_facts(RunFolder(path)),
        "best": load_best,
        "metrics": read_metrics,
        "efck1": read_efck1,
        "efop1": read_efop1,
        "weights": load_full,
        "teacher": lambda path: load_teacher(path, 16, normalize=True),
        "tokenizer": Tokenizer.load,
    }


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def _answer(read, path, pipe):
    from energyflow_mlx.errors import InputError

    logged = _Lines()
    logging.getLogger("energyflow_mlx").addHandler(logged)
    before = _peak()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_BYTES, hard))
    status, message = "read", ""
    try:
        read(Path(path))
    except InputError as error:
        status, message = "refused", str(error)
    except BaseException as error:  # a panic of another library too
        status, message = "error", f"{type(error).__name__}: {error}"
    answer = [status, message[:4000], _peak() - before, logged.lines]
    os.write(pipe, json.dumps(answer).encode())
    os._exit(0)


def _fork(read, path):
    start, (out, into) = time.monotonic(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        signal.alarm(SECONDS)
        _answer(read, path, into)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    taken = time.monotonic() - start
    if status or not said:
        return ["died", f"signal {os.WTERMSIG(status)}", 0, [], taken]
    return [*json.loads(said), taken]


def main():
    """Answer requests, one JSON line each, until standard input ends."""
    known = readers()
    for line in sys.stdin:
        reader, path = json.loads(line)
        sys.stdout.write(json.dumps(_fork(known[reader], path)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Plants faults one at a time in a copy of the tree and says which ones survive.

    python -m tests.mutants.run [ROOM ...]

A fault is killed when one of its tests fails or hangs, and survives when all pass. It
is invalid when its text is not there, its tests do not run, or they fail without it.
Ends with exit status 1 unless every fault is killed or equivalent.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.fault import Fault, load

CHECKOUT = Path(__file__).resolve().parents[2]
COPIES = 2
TIMEOUT_S = 180
_PASSED, _FAILED = 0, 1  # exit statuses of pytest


@dataclass(frozen=True)
class Verdict:
    """What became of one fault.

    Attributes:
        outcome: ``killed``, ``survived``, ``invalid`` or ``equivalent``.
        detail: The reason in a line: the failed test, or what does not fit.
        seconds: How long its tests took.
    """

    fault: Fault
    outcome: str
    detail: str
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether the tests do what they should."""
        return self.outcome in ("killed", "equivalent")


def copy_tree(checkout: Path, copy: Path) -> None:
    """Copy what is or would be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (checkout / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, copy / name)


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Exit status of pytest, None when it hangs, and its last line of text."""
    scratch = copy.with_name(f"{copy.name}-tmp")
    scratch.mkdir(exist_ok=True)
    variables = {
        "PYTHONPATH": str(copy),
        "TMPDIR": str(scratch),  # two runs must not compile one expression at once
        # A change that keeps the size, within a second, would meet the old bytecode.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=copy,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None, f"hangs for {TIMEOUT_S} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [x for x in lines if x.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or lines or [""])[-1]


@contextmanager
def planted(copy: Path, fault: Fault) -> Iterator[None]:
    """Hold the fault in the copy's file for the body."""
    path = copy / fault.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(fault.planted_in(sound), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(sound, encoding="utf-8")


def judge(copy: Path, fault: Fault) -> Verdict:
    """Plant one fault, run its tests, and take it out again."""
    if fault.equivalent:
        return Verdict(fault, "equivalent", fault.equivalent)
    started = time.perf_counter()
    try:
        with planted(copy, fault):
            status, last_line = run_tests(copy, fault.tests)
    except (OSError, ValueError) as error:
        return Verdict(fault, "invalid", str(error))
    names = {None: "killed", _FAILED: "killed", _PASSED: "survived"}
    seconds = time.perf_counter() - started
    return Verdict(fault, names.get(status, "invalid"), last_line, seconds)


def judge_all(checkout: Path, faults: Sequence[Fault]) -> Iterator[Verdict]:
    """Judge the faults, two at a time, in copies of the checkout of their own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(COPIES):
            copy_tree(checkout, Path(folder, f"copy{number}"))
            copies.put(Path(folder, f"copy{number}"))

        def with_a_copy(fault: Fault) -> Verdict:
            copy = copies.get()
            try:
                return judge(copy, fault)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(COPIES) as pool:
            for _, of_a_room in itertools.groupby(faults, lambda fault: fault.room):
                listed = list(of_a_room)
                reason = _failure_without(Path(folder, "copy0"), listed)
                if reason:
                    yield from (Verdict(f, "invalid", reason) for f in listed)
                else:
                    yield from pool.map(with_a_copy, listed)


def _failure_without(copy: Path, faults: Sequence[Fault]) -> str:
    """How the files of tests fail before a fault is planted; empty where they pass."""
    wanted = [f for f in faults if not f.equivalent]
    files = dict.fromkeys(x for f in wanted for x in f.tests if x.startswith("tests/"))
    status, last_line = run_tests(copy, list(files))
    return "" if status == _PASSED else f"without it: {last_line}"


def main(chosen: Sequence[str]) -> int:
    """Judge the faults of the chosen rooms and print a table."""
    verdicts = []
    for verdict in judge_all(CHECKOUT, load(chosen)):
        verdicts.append(verdict)
        fault = verdict.fault
        sys.stdout.write(
            f"{verdict.outcome:10} {verdict.seconds:5.1f} s  {fault.room:10} "
            f"{fault.name}\n"
        )
        sys.stdout.write(f"           {verdict.detail[:100]}\n")
        sys.stdout.flush()
    counts = {
        name: sum(v.outcome == name for v in verdicts)
        for name in ("killed", "survived", "invalid", "equivalent")
    }
    sys.stdout.write(", ".join(f"{n} {name}" for name, n in counts.items()) + "\n")
    return 0 if all(v.is_good for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

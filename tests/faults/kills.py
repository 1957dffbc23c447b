"""Kills of a training run, and whether the same command then ends as if none had been.

A case strikes one process; the command is started again until it ends, as a user would.
"""

import itertools
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import energyflow_mlx
from tests.faults.harness import KILLED
from tests.faults.kinds import RUN, command, differences, lost_updates, state_of

MOST_STARTS = 4
_NUMBER = re.compile(r"-\d+")  # of a process, in the name of a temporary file


@dataclass(frozen=True)
class Strike:
    """One blow to one run.

    Attributes:
        kind: Of the run, one of ``kinds.KINDS``.
        mode: One of ``server.MODES``, or ``instant``.
        at: The operation, from 1, or the seconds after the start.
    """

    kind: str
    mode: str
    at: float

    def __str__(self):
        where = f"operation {self.at}" if self.mode != "instant" else f"{self.at:.3f} s"
        return f"{self.kind}: {self.mode} at {where}"


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        strike: The blow.
        struck: The last file operation of the process that it met.
        starts: How often the command was started, that process included.
        problems: What is not as promised.
    """

    strike: Strike
    struck: str
    starts: int
    problems: tuple[str, ...]

    def to_json(self):
        return asdict(self)


class Bench:
    """Runs of every kind, undisturbed ones to compare with and struck ones.

    Args:
        processes: Where commands run.
        folder: For everything.
        cache: Of the teacher's vectors, shared by all runs.
    """

    def __init__(self, processes, folder, cache):
        self.processes, self.folder, self.cache = processes, Path(folder), cache
        self._numbers = itertools.count()
        self._references, self._seconds = {}, {}

    def reference(self, kind):
        """State, operations and vectors of the undisturbed run of a kind."""
        if kind not in self._references:
            self._run_once(kind)  # compiles, and fills the cache
            started = time.monotonic()
            folder, ended = self._run_once(kind)
            self._seconds[kind] = time.monotonic() - started
            state = state_of(folder / RUN)
            self._references[kind] = state, ended.operations
        return self._references[kind]

    def seconds(self, kind):
        """How long the undisturbed run took."""
        self.reference(kind)
        return self._seconds[kind]

    def _run_once(self, kind):
        folder = self._new_folder()
        ended = self.processes.run(folder, *command(kind, self.cache))
        assert ended.status == 0, ended.output
        return folder, ended

    def _new_folder(self):
        folder = self.folder / f"case-{next(self._numbers)}"
        folder.mkdir(parents=True)
        return folder

    def points(self, kind):
        """The file operations worth a kill, as strikes.

        Of many writes in a row to one file the first, the second and the last.
        """
        _, operations = self.reference(kind)
        numbered = list(enumerate(operations, 1))
        chosen = []
        for _, same in itertools.groupby(numbered, key=lambda pair: pair[1]):
            row = [number for number, _ in same]
            for number in sorted({row[0], row[min(1, len(row) - 1)], row[-1]}):
                chosen.append(Strike(kind, "kill", number))
        return chosen

    def judge(self, strike):
        """Strike a run, start it again until it ends, and compare."""
        folder = self._new_folder()
        try:
            starts, problems, struck = self._judge(strike, folder)
        finally:
            shutil.rmtree(folder)
        return Outcome(strike, struck, starts, tuple(problems))

    def _judge(self, strike, folder):
        expected, _ = self.reference(strike.kind)
        words = command(strike.kind, self.cache)
        if strike.mode == "instant":
            ended = self.processes.run(folder, *words, kill_after=strike.at)
        else:
            ended = self.processes.run(folder, *words, mode=strike.mode, at=strike.at)
        problems = self._problems_of_end(strike, ended)
        struck = _NUMBER.sub("-N", (ended.operations or ["nothing"])[-1])
        first, starts = ended, 1
        while starts < MOST_STARTS and (starts == 1 or ended.status != 0):
            ended = self.processes.run(folder, *words)
            starts += 1
        if ended.status != 0:
            return starts, [*problems, f"lost: {_last_line(ended.output)}"], struck
        lost = lost_updates(first.output, ended.output)
        problems += [lost] if lost else []
        problems += differences(expected, state_of(folder / RUN))
        siblings = sorted(p.name for p in folder.iterdir() if p.name != RUN)
        problems += [f"left over beside the run: {name}" for name in siblings]
        energyflow_mlx.load(folder / RUN).encode(["A dog runs."])
        return starts, problems, struck

    def _problems_of_end(self, strike, ended):
        if strike.mode in ("kill", "tear", "instant"):
            is_expected = ended.status in (KILLED, 0)
            return [] if is_expected else [f"status {ended.status}, no kill"]
        if ended.status == 0 or ended.is_one_line:
            return []
        return [f"status {ended.status}: {_last_line(ended.output)}"]


def _last_line(text):
    return (text.splitlines() or ["no output"])[-1]

"""Commands that are struck, and whether they then end as if nothing had been.

A case strikes one process; the command is started again until it ends, as a user would.
"""

import itertools
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import energyflow_mlx
from tests.faults.harness import KILLED
from tests.faults.kinds import KINDS, RUN, TEXTS
from tests.faults.state import differences, lost_updates, state_of, temporaries

MOST_STARTS = 4
KILLS = ("kill", "tear", "instant")
_PROCESS = re.compile(r"-\d+")  # its number, in the name of a temporary file


@dataclass(frozen=True)
class Strike:
    """One blow to one command.

    Attributes:
        kind: Of the command, one of ``kinds.KINDS``.
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
        """As a dictionary of JSON values."""
        return asdict(self)

    def __str__(self):
        return f"{self.strike} ({self.struck})"


class Undisturbed(NamedTuple):
    """A command that nothing struck: what it leaves, does and takes."""

    state: dict
    operations: tuple
    seconds: float


class Bench:
    """Commands of every kind, undisturbed ones to compare with and struck ones.

    Args:
        processes: Where they run.
        folder: For everything.
        cache: Of the teacher's vectors, shared by all.
    """

    def __init__(self, processes, folder, cache):
        self.processes, self.folder, self.cache = processes, Path(folder), cache
        self._numbers = itertools.count()
        self._undisturbed = {}
        self._template = None

    def undisturbed(self, kind):
        """The command of a kind, left alone."""
        if kind not in self._undisturbed:
            self.template()  # fills the cache
            first, second = self._left_alone(kind), self._left_alone(kind)
            unlike = differences(first.state, second.state)
            assert not unlike, f"{kind}: two undisturbed runs differ: {unlike}"
            self._undisturbed[kind] = second  # nothing is left to be compiled
        return self._undisturbed[kind]

    def _left_alone(self, kind):
        folder, started = self.new_folder(kind), time.monotonic()
        ended = self._run(folder, kind)
        seconds = time.monotonic() - started
        assert ended.status == 0, ended.output
        return Undisturbed(state_of(folder), ended.operations, seconds)

    def _run(self, folder, kind, **fault):
        return self.processes.run(folder, *KINDS[kind].command(self.cache), **fault)

    def new_folder(self, kind):
        """A folder that a command of a kind can run in."""
        folder = self.folder / f"case-{next(self._numbers)}"
        if KINDS[kind].needs_run:
            shutil.copytree(self.template(), folder)
        else:
            folder.mkdir(parents=True)
        return folder

    def template(self):
        """A folder with a finished run, sentences and vectors."""
        if self._template is None:
            folder = self.new_folder("ab")
            ended = self._run(folder, "ab")
            assert ended.status == 0, ended.output
            (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
            np.save(
                folder / "vectors.npy", energyflow_mlx.load(folder / RUN).encode(TEXTS)
            )
            self._template = folder
        return self._template

    def points(self, kind, mode="kill"):
        """The file operations worth a strike.

        Of many writes in a row to one file the first, the second and the last.
        """
        numbered = enumerate(self.undisturbed(kind).operations, 1)
        chosen = []
        for _, same in itertools.groupby(numbered, key=lambda pair: pair[1]):
            row = [number for number, _ in same]
            for number in sorted({row[0], row[min(1, len(row) - 1)], row[-1]}):
                chosen.append(Strike(kind, mode, number))
        return chosen

    def judge(self, strike):
        """Strike a command, start it again until it ends, and compare."""
        folder = self.new_folder(strike.kind)
        try:
            return self._judge(strike, folder)
        finally:
            shutil.rmtree(folder)

    def _judge(self, strike, folder):
        how = {"mode": strike.mode, "at": strike.at}
        fault = {"kill_after": strike.at} if strike.mode == "instant" else how
        first = ended = self._run(folder, strike.kind, **fault)
        problems, starts = _problems_of_end(strike, first, folder), 1
        while starts == 1 or (ended.status != 0 and starts < MOST_STARTS):
            ended, starts = self._run(folder, strike.kind), starts + 1
        if ended.status != 0:
            problems.append(f"lost: {_last_line(ended.output)}")
        else:
            problems += filter(None, [lost_updates(first.output, ended.output)])
            expected = self.undisturbed(strike.kind).state
            problems += differences(expected, state_of(folder))
            problems += _problems_of_use(folder / RUN)
        struck = _PROCESS.sub("-N", (first.operations or ["nothing"])[-1])
        return Outcome(strike, struck, starts, tuple(problems))


def _problems_of_end(strike, ended, folder):
    """What is wrong with the end of the process that was struck."""
    if strike.mode in KILLS:
        is_expected = ended.status in (KILLED, 0)
        return [] if is_expected else [f"status {ended.status}: no kill"]
    left = [f"left over by the error: {name}" for name in temporaries(folder)]
    if ended.status == 0 or ended.is_one_line:
        return left
    return [*left, f"status {ended.status}: {_last_line(ended.output)}"]


def _problems_of_use(run):
    """What is wrong with a run that is loaded; equal files give equal vectors."""
    try:
        codec = energyflow_mlx.load(run)
        if codec.record.has_trained("encoder"):
            codec.encode(TEXTS[:1])
    except energyflow_mlx.InputError as error:
        return [f"cannot be used: {error}"]
    return []


def _last_line(text):
    return (text.splitlines() or ["no output"])[-1]

"""Flipped bits and lost ends in the files of a run, and what its readers make of them.

``python -m tests.faults.damage RUN SEED FIRST COUNT`` damages one file of a copy at a
time, in one process, and writes a line of JSON before and after each case. Every case
follows from seed and number alone.
"""

import json
import logging
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from energyflow_mlx import InputError, load
from energyflow_mlx.config import read_config
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX
from tests.faults.kinds import TEXTS
from tests.faults.state import LOCK

_FIELD = re.compile(rb'[^\s,:{}\[\]"]+')
_HEAD = 1 << 16  # where fields are looked for
_TRUNCATED = 0.3  # share of the cases


class Damage(NamedTuple):
    """One file as it is after a fault."""

    file: str
    how: str
    data: bytes


def damage(run, seed, number):
    """Damage of case ``number``: any file as often as another, in any of its fields.

    Args:
        run: The run's folder.
        seed: Of the campaign.
        number: Of the case.
    """
    chosen = random.Random(f"{seed} {number}")
    files = [path for path in sorted(Path(run).rglob("*")) if _is_read(path)]
    path = chosen.choice(files)
    data, name = bytearray(path.read_bytes()), str(path.relative_to(run))
    at = _position(data, chosen)
    if chosen.random() < _TRUNCATED:
        return Damage(name, f"cut at byte {at} of {len(data)}", bytes(data[:at]))
    bit = chosen.randrange(8)
    data[at] ^= 1 << bit
    return Damage(name, f"bit {bit} of byte {at} flipped", bytes(data))


def _is_read(path):
    """Whether a file has bytes, and somebody reads them: no lock, no leftover."""
    is_left_over = path.parent.name.startswith(TEMPORARY_PREFIX)
    is_file = path.is_file() and path.stat().st_size > 0
    return is_file and path.name != LOCK and not is_left_over


def _position(data, chosen):
    fields = list(_FIELD.finditer(data, 0, _HEAD)) if chosen.random() < 0.5 else []
    if fields:
        field = chosen.choice(fields)
        return chosen.randrange(field.start(), field.end())
    return chosen.randrange(len(data))


# -- what reads a run --------------------------------------------------------


def _vectors(run):
    return load(run).encode(TEXTS[:2]).tobytes().hex()


def _texts(run):
    codec = load(run)
    return codec.decode(codec.encode(TEXTS[:2]), max_length=4)


def _state(run):
    found = RunFolder(run).latest()
    arrays = {name: bytes(memoryview(a)).hex() for name, a in found.arrays.items()}
    return [arrays, found.meta]


READERS = {
    "config": lambda run: read_config(run / "config.json").to_json(),
    "vectors": _vectors,
    "texts": _texts,
    "state": _state,
    "log": lambda run: RunFolder(run).read_log(),
    "samples": lambda run: RunFolder(run).read_samples(),
    "summary": lambda run: RunFolder(run).read_summary(),
}
_LOGS = ("log", "samples")  # lists, of which a reader may leave out what is damaged


class Heard(logging.Handler):
    """Keeps what the package warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        """Keep a line."""
        self.lines.append(record.getMessage())


class Examiner:
    """Compares what readers find in a damaged run with what is right.

    Args:
        run: The whole run's folder; a copy of it is damaged.
        folder: Where the copy goes.
    """

    def __init__(self, run, folder):
        self.run, self.copy = Path(run), Path(folder, "run")
        shutil.copytree(run, self.copy)
        self.heard = Heard()
        log = logging.getLogger("energyflow_mlx")
        log.addHandler(self.heard)
        log.propagate = False
        self.right = {name: [read(self.run)] for name, read in READERS.items()}
        self._add_last_states()
        self.earlier = {name: self._earlier(name) for name in _LOGS}

    def _earlier(self, name):
        """What a log was before: a process killed a little sooner had left as much.

        Its records up to the newest checkpoint are in all of them.
        """
        records, saved = self.right[name][0], max(RunFolder(self.run).steps())
        kept = sum(record["step"] <= saved for record in records)
        return [records[:count] for count in range(kept, len(records) + 1)]

    def _add_last_states(self):
        """What every checkpoint alone gives: good states, where newer ones are lost."""
        checkpoints = sorted((self.run / "checkpoints").glob("step_*"))
        for kept in checkpoints:
            for other in checkpoints:
                if other != kept:
                    shutil.rmtree(self.copy / "checkpoints" / other.name)
            for name in ("vectors", "texts", "state"):
                try:
                    self.right[name].append(READERS[name](self.copy))
                except InputError:
                    pass  # names a best checkpoint that is gone
            shutil.rmtree(self.copy / "checkpoints")
            shutil.copytree(self.run / "checkpoints", self.copy / "checkpoints")

    def examine(self, change):
        """Problems of one damage: silent ones, broken readers, long messages."""
        path = self.copy / change.file
        whole = path.read_bytes()
        path.write_bytes(change.data)
        try:
            found = [self._ask(name) for name in READERS]
        finally:
            path.write_bytes(whole)
        return [problem for problem in found if problem]

    def _ask(self, name):
        self.heard.lines.clear()
        try:
            value = READERS[name](self.copy)
        except InputError as error:
            is_line = "\n" not in str(error)
            return None if is_line else f"{name}: several lines: {error}"
        except Exception as error:  # noqa: BLE001 - what escapes is what is looked for
            return f"{name}: traceback: {type(error).__name__}: {error}"
        return self._judge(name, value)

    def _judge(self, name, value):
        right = self.right[name]
        if value == right[0] or value in self.earlier.get(name, ()):
            return None
        if not self.heard.lines:
            return f"{name}: silent"
        is_part = name in _LOGS and all(record in right[0] for record in value)
        if value in right or is_part or not value:
            return None
        return f"{name}: warns, and gives what never was"


def say(values):
    """Write a line before what comes next can crash."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main():
    run, seed, first, count = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="energyflow_damage_")
    try:
        examiner = Examiner(run, folder)
        for number in range(int(first), int(first) + int(count)):
            change = damage(run, seed, number)
            case = {"number": number, "file": change.file, "how": change.how}
            say(case)
            say(examiner.examine(change))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

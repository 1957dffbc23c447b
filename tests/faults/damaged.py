"""Cases of damage, judged in a process that may crash or hang, and resumed runs.

A reader's crash is a finding and not the end of the campaign: what judges is started
again behind the case that ended it.
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.commands import CHECKOUT
from tests.faults.damage import damage
from tests.faults.kinds import KINDS, RUN
from tests.faults.state import differences, state_of

_PATIENCE = 60  # seconds that the readers of one case may take
_LENIENT = ("tokenizer=bpe", "tokenizer.bpe_size=300", "trainer.keep=3")


@dataclass(frozen=True)
class DamageOutcome:
    """What readers, or a resumed run, made of one damage."""

    number: int
    file: str
    how: str
    problems: tuple[str, ...]

    def to_json(self):
        """As a dictionary of JSON values."""
        return asdict(self)

    def __str__(self):
        return f"case {self.number}: {self.file}, {self.how}"


def make_run(processes, folder, cache, *, is_half_way=False):
    """A run with several checkpoints, ended or killed as it saved the last one."""
    folder.mkdir(parents=True)
    words = [*KINDS["ab"].command(cache), *_LENIENT]
    ended = processes.run(folder, *words)
    assert ended.status == 0, ended.output
    if is_half_way:
        shutil.rmtree(folder / RUN)
        names = [name for name in ended.operations if name.startswith("rename")]
        last = [name for name in names if name.endswith("step_00000005")][-1]
        at = ended.operations.index(last) + 1
        assert processes.run(folder, *words, mode="kill", at=at).status == -9
    return folder / RUN


def judged(run, seed, first, count):
    """Outcomes of ``count`` damages of a run's files, read one by one."""
    while count > 0:
        done = 0
        for outcome in _judged_till_crash(run, seed, first, count):
            yield outcome
            done += 1
        first, count = first + done, count - done


def _judged_till_crash(run, seed, first, count):
    words = [sys.executable, "-m", "tests.faults.damage", run, seed, first, count]
    with subprocess.Popen(
        [str(word) for word in words],
        cwd=CHECKOUT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as worker:
        while case := _line(worker):
            case, problems = json.loads(case), _line(worker)
            if problems is None:
                worker.kill()
                yield DamageOutcome(**case, problems=("hangs",))
                return
            if not problems:
                yield DamageOutcome(**case, problems=(f"ends with {worker.wait()}",))
                return
            yield DamageOutcome(**case, problems=tuple(json.loads(problems)))
        assert worker.wait() == 0, "the worker broke between two cases"


def _line(worker):
    """The worker's next line, empty at its end, None where it takes too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        return worker.stdout.readline() if selector.select(_PATIENCE) else None


def resumed(processes, run, cache, seed, numbers):
    """Outcomes of runs that go on from a damaged folder.

    Args:
        processes: Where they run.
        run: A run that was killed half-way.
        cache: Of the teacher's vectors.
        seed: Of the campaign.
        numbers: Of its cases.
    """
    words = [*KINDS["ab"].command(cache), *_LENIENT]
    folder = run.parent.with_name("resumed")
    shutil.copytree(run.parent, folder)
    assert processes.run(folder, *words).status == 0
    right = state_of(folder)
    for number in numbers:
        shutil.rmtree(folder)
        shutil.copytree(run.parent, folder)
        change = damage(run, seed, number)
        (folder / RUN / change.file).write_bytes(change.data)
        ended = processes.run(folder, *words)
        problems = _problems_of_resuming(ended, change, right, folder)
        yield DamageOutcome(number, change.file, change.how, tuple(problems))
    shutil.rmtree(folder)


def _problems_of_resuming(ended, change, right, folder):
    """What is wrong with a run that went on from a damaged folder.

    One that says which file it met, and does without it, may lack what was in it.
    """
    if ended.status != 0:
        last = (ended.output.splitlines() or ["nothing"])[-1]
        return [] if ended.is_one_line else [f"status {ended.status}: {last}"]
    found = differences(right, state_of(folder))
    own = [problem for problem in found if change.file in problem]
    if change.file.startswith("checkpoints/"):
        found = [p for p in found if p not in own]  # nobody read it, or it was named
    parts = [part for part in Path(change.file).parts if part != "checkpoints"]
    is_said = any(part in ended.output for part in parts)
    lasting = [p for p in found if p not in own and not p.startswith("left over")]
    return lasting if is_said else [f"silent: {problem}" for problem in found]

"""Two processes that train in one folder: one does, the other says why it does not."""

import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.kinds import KINDS
from tests.faults.state import differences, state_of

_OVER = "nothing to do"


@dataclass(frozen=True)
class Meeting:
    """Two writers and what came of them.

    Attributes:
        kind: Of the run.
        delay: Seconds after which the second one starts.
        problems: What is not as promised.
    """

    kind: str
    delay: float
    problems: tuple[str, ...]

    def to_json(self):
        """As a dictionary of JSON values."""
        return asdict(self)

    def __str__(self):
        return f"{self.kind}: a second writer after {self.delay:.3f} s"


def meet(bench, other, kind, delay):
    """Start the same command twice.

    Args:
        bench: Runs the first one, and knows how it ends alone.
        other: Processes for the second one.
        kind: Of the run.
        delay: Seconds between the two.
    """
    right = bench.undisturbed(kind).state
    folder = Path(bench.new_folder(kind))
    words, ended = KINDS[kind].command(bench.cache), {}

    def start(name, processes, seconds):
        time.sleep(seconds)
        ended[name] = processes.run(folder, *words)

    starts = [("first", bench.processes, 0.0), ("second", other, delay)]
    threads = [threading.Thread(target=start, args=each) for each in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = _problems(list(ended.values()), right, folder)
    shutil.rmtree(folder)
    return Meeting(kind, delay, tuple(problems))


def _problems(ended, right, folder):
    writers = [e for e in ended if e.status == 0 and _OVER not in e.output]
    refused = [e for e in ended if e.status != 0]
    problems = [
        f"status {e.status}: {(e.output.splitlines() or ['nothing'])[-1]}"
        for e in refused
        if not e.is_one_line
    ]
    if len(writers) != 1:
        problems.append(f"{len(writers)} processes trained to the end")
        return problems
    return problems + differences(right, state_of(folder))

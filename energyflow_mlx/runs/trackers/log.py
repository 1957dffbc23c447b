"""The metrics log of a run that has trackers, and what becomes of one that fails.

``metrics.jsonl`` is the truth: a record is in it before any tracker gets it. When a run
begins or is taken up again, a tracker that has everything so far goes on; one that is
new, or failed before, is filled with all records. ``trackers.json`` says which have
everything, and under which id.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import require_package
from energyflow_mlx.runs.metrics import MetricsLog, plain_record, read_metrics
from energyflow_mlx.runs.trackers.base import TrackedRun, Tracker
from energyflow_mlx.runs.trackers.csv_file import CsvTracker
from energyflow_mlx.runs.trackers.mlflow import MlflowTracker
from energyflow_mlx.runs.trackers.tensorboard import TensorBoardTracker
from energyflow_mlx.runs.trackers.wandb import WandbTracker
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text

logger = logging.getLogger(__name__)

_KINDS: Mapping[str, type[Tracker]] = {
    "csv": CsvTracker,
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        InputError: One is missing; names the command that installs it.
    """
    for name in names:
        if package := _KINDS[name].package:
            require_package(package, extra=name)


class TrackedLog(MetricsLog):
    """A metrics log that hands every record on to trackers.

    A tracker that fails is left out from there on, and the run goes on: the terminal
    says so at once and at the end, and the next session fills that tracker anew.

    Args:
        path: The metrics file.
        state: File that says which trackers have everything.
        run: What the trackers are told of the run.
        names: The trackers.
    """

    def __init__(
        self, path: Path, state: Path, run: TrackedRun, names: Sequence[str]
    ) -> None:
        super().__init__(path)
        self._state = state
        self._trackers = {name: _KINDS[name](run) for name in names}
        self._idents: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._count = 0

    def truncate_after(self, step: int) -> None:
        """Drop the records of later steps, and open the trackers with those left."""
        super().truncate_after(step)
        records = read_metrics(self.path)
        self._count = len(records)
        known = self._read_state()
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                if name in known:
                    ident = tracker.resume(known[name], step, records)
                else:
                    ident = tracker.begin(records)
                self._idents[name] = ident
        self._write_state()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, here and in every tracker."""
        super().write(record)
        row = plain_record(record)
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                tracker.write(self._count, row)
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close everything; trackers hear how the run ended."""
        status = "finished" if kind is None else "failed"
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            status = "interrupted"
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                tracker.close(status)
        for name, reason in self._lost.items():
            logger.warning(
                "[trackers] %s is not whole (%s): %s has every record, and the same "
                "command fills %s when it resumes the run",
                *(name, reason, self.path, name),
            )
        self.close()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Do something with a tracker, and leave it out when that fails."""
        try:
            yield
        except self._trackers[name].errors as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning(
                "[trackers] %s failed at record %d: %s; the run goes on without it",
                *(name, self._count, reason),
            )
            self._lost[name] = reason
            tracker = self._trackers.pop(name)
            with suppress(*tracker.errors):
                tracker.close("failed")
            self._idents.pop(name, None)
            self._write_state()

    def _read_state(self) -> dict[str, str]:
        if not self._state.is_file():
            return {}
        found: dict[str, str] = json.loads(self._state.read_text(encoding="utf-8"))
        return found

    def _write_state(self) -> None:
        write_text(self._state, json_text(self._idents, indent=1) + "\n")

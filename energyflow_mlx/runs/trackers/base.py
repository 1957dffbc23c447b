"""What a tracker is: a sink of records that can be taken up again after a kill."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

Record = Mapping[str, Any]


class TrackedRun(NamedTuple):
    """What trackers are told of a run.

    Attributes:
        folder: For the files of trackers that keep theirs with the run.
        name: Name of the run.
        project: What the run is filed under, where a tracker files runs.
        settings: Every setting by its dotted key.
    """

    folder: Path
    name: str
    project: str
    settings: Mapping[str, Any]


class Tracker(ABC):
    """One place that gets the records of one run, in the order of ``metrics.jsonl``.

    A record is handed on before ``write`` returns, as far as the tracker's package
    allows, so that a checkpoint never comes before a record it rests on.

    Attributes:
        package: Module that it needs beside the core; empty = none.
        errors: What its failures raise; the run goes on without it then.
    """

    package: ClassVar[str] = ""
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, run: TrackedRun) -> None:
        self.run = run

    @abstractmethod
    def begin(self, records: Sequence[Record]) -> str:
        """Start anew with the records there are; returns what ``resume`` needs."""

    @abstractmethod
    def resume(self, ident: str, step: int, records: Sequence[Record]) -> str:
        """Go on after update ``step``, whatever was written after it.

        Args:
            ident: What ``begin`` returned.
            step: The last update that counts.
            records: All that counts; the tracker has them, and perhaps later ones.
        """

    @abstractmethod
    def write(self, number: int, record: Record) -> None:
        """Take the record with this number, counted from 0 in ``metrics.jsonl``."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End the session.

        Args:
            status: ``finished``, ``failed`` or ``interrupted``.
        """


def scalars(record: Record) -> dict[str, float]:
    """Numbers of a record under ``kind/name``; truth values are 0 and 1."""
    kind = record.get("kind", "metrics")
    return {
        f"{kind}/{name}": float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }

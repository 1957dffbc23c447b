"""Records as one table in a CSV file, a column for every name that occurs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from energyflow_mlx.runs.trackers.base import Record, TrackedRun, Tracker
from energyflow_mlx.runtime.atomic import write_text


class CsvTracker(Tracker):
    """``metrics.csv``: floats with all digits, an empty cell where there is no value.

    The whole file is written anew when a record brings a new column, and when a run is
    taken up again.
    """

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        self._path: Path = run.folder / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[Record] = []

    def begin(self, records: Sequence[Record]) -> str:
        """Write the table of these records."""
        self._rows = list(records)
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._write_all()
        return self._path.name

    def resume(self, ident: str, step: int, records: Sequence[Record]) -> str:
        """Write the table anew: what came after ``step`` is gone."""
        return self.begin(records)

    def write(self, number: int, record: Record) -> None:
        """Add a row."""
        self._rows.append(record)
        new = [name for name in record if name not in self._columns]
        if new:
            self._columns += new
            self._write_all()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._text([record]))

    def close(self, status: str) -> None:
        """Nothing is open between two records."""

    def _write_all(self) -> None:
        header = self._text([dict(zip(self._columns, self._columns, strict=True))])
        write_text(self._path, header + self._text(self._rows))

    def _text(self, rows: Sequence[Record]) -> str:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, self._columns, lineterminator="\n")
        writer.writerows(rows)
        return buffer.getvalue()

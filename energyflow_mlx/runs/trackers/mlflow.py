"""Records in MLflow, at the place that ``MLFLOW_TRACKING_URI`` names."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from energyflow_mlx.runs.trackers.base import Record, TrackedRun, Tracker, scalars

_MOST_PARAMS, _MOST_METRICS = 100, 1000  # of one call
_LONGEST_PARAM = 6000
_ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker(Tracker):
    """One MLflow run, with the same id however often the run is taken up.

    MLflow keeps every point it was ever given, so a run that is taken up gives it only
    those that it does not have.
    """

    package: ClassVar[str] = "mlflow"

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        from mlflow.exceptions import MlflowException

        self.errors = (OSError, MlflowException)
        self._client: Any = None
        self._id = ""
        self._known: set[tuple[str, int]] = set()

    def begin(self, records: Sequence[Record]) -> str:
        """Start a run with these records."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(self.run.project)
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(self.run.project)
        )
        created = self._client.create_run(experiment, run_name=self.run.name)
        self._id = str(created.info.run_id)
        self._log_settings()
        self._log(records)
        return self._id

    def resume(self, ident: str, step: int, records: Sequence[Record]) -> str:
        """Take the run up, and give it what it does not have."""
        from mlflow import MlflowClient

        self._client, self._id = MlflowClient(), ident
        names = self._client.get_run(ident).data.metrics
        self._known = {
            (name, point.step)
            for name in names
            for point in self._client.get_metric_history(ident, name)
        }
        self._client.update_run(ident, status="RUNNING")
        self._log(records)
        return ident

    def write(self, number: int, record: Record) -> None:
        """Give it a record."""
        self._log([record])

    def close(self, status: str) -> None:
        """Say how the run ended."""
        if self._id:
            self._client.set_terminated(self._id, _ENDS[status])

    def _log_settings(self) -> None:
        from mlflow.entities import Param

        params = [
            Param(key, str(value)[:_LONGEST_PARAM])
            for key, value in self.run.settings.items()
        ]
        for first in range(0, len(params), _MOST_PARAMS):
            part = params[first : first + _MOST_PARAMS]
            self._client.log_batch(self._id, params=part)

    def _log(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1e3)
        points = [
            Metric(name, value, now, step)
            for record in records
            for step in (int(record.get("step", 0)),)
            for name, value in scalars(record).items()
            if (name, step) not in self._known
        ]
        for first in range(0, len(points), _MOST_METRICS):
            part = points[first : first + _MOST_METRICS]
            self._client.log_batch(self._id, metrics=part)

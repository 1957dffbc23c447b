"""Records in Weights & Biases; with ``WANDB_MODE=offline`` in files of the run."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from energyflow_mlx.runs.trackers.base import Record, TrackedRun, Tracker, scalars


class WandbTracker(Tracker):
    """One run of Weights & Biases, with the same id however often it is taken up.

    A record's number is its step there. The service has every step once, so records
    that a killed run had sent already are not sent again. Files of an offline run
    cannot be continued: a new session has all records, and the files of earlier
    sessions go.
    """

    package: ClassVar[str] = "wandb"

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        from wandb.errors import Error
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

        # The last three: of the process in which wandb writes and sends.
        self.errors = (
            *(OSError, Error),
            *(HandleAbandonedError, MailboxClosedError, ServerResponseError),
        )
        self._session: Any = None

    def begin(self, records: Sequence[Record]) -> str:
        """Start a run with these records."""
        return self.resume(uuid.uuid4().hex[:12], 0, records)

    def resume(self, ident: str, step: int, records: Sequence[Record]) -> str:
        """Take the run up, and send what it does not have."""
        import wandb

        self.run.folder.mkdir(parents=True, exist_ok=True)
        self._session = wandb.init(
            id=ident,
            name=self.run.name,
            project=self.run.project,
            config=dict(self.run.settings),
            dir=str(self.run.folder),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._session.define_metric("update")
        self._session.define_metric("*", step_metric="update")
        if self._session.offline:
            self._remove_earlier_files()
        for number, record in enumerate(records):
            self.write(number, record)
        return ident

    def write(self, number: int, record: Record) -> None:
        """Send a record unless the run has its number."""
        if number >= self._session.step:
            values = scalars(record) | {"update": record.get("step", 0)}
            self._session.log(values, step=number)

    def close(self, status: str) -> None:
        """Wait until everything is sent or written, and end the session."""
        if self._session is not None:
            self._session.finish(exit_code=0 if status == "finished" else 1)

    def _remove_earlier_files(self) -> None:
        own = Path(self._session.dir).resolve().parent
        for path in own.parent.glob("offline-run-*"):
            if path.resolve() != own:
                for records in path.glob("*.wandb"):
                    records.unlink()
                # A session that was killed just now may still write its log there.
                shutil.rmtree(path, ignore_errors=True)

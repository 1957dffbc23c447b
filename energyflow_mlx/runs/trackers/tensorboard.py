"""Records as TensorBoard event files, and the settings as text and hyperparameters.

The event files are written with TensorBoard's own record writer, in this thread: its
event writers hold records back in a queue, lose them in a kill, and fail in a thread
that nobody asks.
"""

import shutil
import socket
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, ClassVar

from energyflow_mlx.runs.trackers.base import Record, TrackedRun, Tracker, scalars
from energyflow_mlx.runtime.json_text import json_text


class TensorBoardTracker(Tracker):
    """``tensorboard/`` with one event file for every time the run was taken up.

    A new file opens with the session's start at the update after the last checkpoint:
    TensorBoard drops what earlier files have from there on.
    """

    package: ClassVar[str] = "tensorboard"

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        self._folder = run.folder / "tensorboard"
        self._file: BinaryIO | None = None
        self._writer: Any = None

    def begin(self, records: Sequence[Record]) -> str:
        """Start with these records in a folder without others."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._open()
        self._add(summary=self._of_settings())
        for number, record in enumerate(records):
            self.write(number, record)
        return self._folder.name

    def resume(self, ident: str, step: int, records: Sequence[Record]) -> str:
        """Open a file that takes the place of what came after ``step``."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._open()
        start = SessionLog(status=SessionLog.START)
        self._add(step=step + 1, session_log=start)
        return ident

    def write(self, number: int, record: Record) -> None:
        """Add the numbers of a record under their update."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars(record).items()
        ]
        self._add(step=int(record.get("step", 0)), summary=Summary(value=values))

    def close(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names.
        number = len(list(self._folder.iterdir()))
        stamp = f"{int(time.time()):010d}.{number:04d}.{socket.gethostname()}"
        path = self._folder / f"events.out.tfevents.{stamp}"
        self._file = path.open("wb", buffering=0)
        self._writer = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())

    def _of_settings(self) -> Any:
        """The settings for TensorBoard's pages of texts and of hyperparameters."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        rows = [f"| {k} | `{json_text(v)}` |" for k, v in self.run.settings.items()]
        text = "\n".join(["| key | value |", "|-|-|", *rows])
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        started = plugin_data_pb2.SessionStartInfo(group_name=self.run.name)
        for key, value in self.run.settings.items():
            if isinstance(value, bool):
                started.hparams[key].bool_value = value
            elif isinstance(value, int | float):
                started.hparams[key].number_value = value
            else:
                started.hparams[key].string_value = str(value)
        hparams = plugin_data_pb2.HParamsPluginData(session_start_info=started)
        table = Summary.Value(
            tag=f"{self.run.name}/config",
            metadata=SummaryMetadata(plugin_data=plugin),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
        )
        start = Summary.Value(
            tag=metadata.SESSION_START_INFO_TAG,
            metadata=metadata.create_summary_metadata(hparams),
        )
        return Summary(value=[table, start])

"""Where the time of the updates since the last report went."""

from dataclasses import dataclass, field

from energyflow_mlx.readback import BatchTiming
from energyflow_mlx.training.state import RunningMeans

Values = dict[str, float]


@dataclass
class UpdateTimings:
    """Means over updates, in ms, and the highest memory among them.

    Attributes:
        peak_bytes: Highest device memory in use.
    """

    peak_bytes: int = 0
    _means: RunningMeans = field(default_factory=RunningMeans)

    def add(self, batch_ms: float, timings: list[BatchTiming]) -> None:
        """Take one update.

        Args:
            batch_ms: How long the host waited for the batch.
            timings: Those of its micro-batches.
        """
        values = {"batch_ms": batch_ms, "build_ms": 0.0, "submit_ms": 0.0, "wait_ms": 0}
        for timing in timings:
            values["build_ms"] += timing.build_ms
            values["submit_ms"] += timing.submit_ms
            values["wait_ms"] += timing.sync_ms
            self.peak_bytes = max(self.peak_bytes, timing.peak_bytes)
            for operation in timing.operations:
                name = f"{operation.label.replace(' ', '_')}_ms"
                values[name] = values.get(name, 0.0) + operation.wall_ms
        self._means.add(values)

    def take(self) -> Values:
        """Means since the last call, and the peak; starts anew.

        ``batch_ms``   waiting for the batch and putting it on the device
        ``build_ms``   building the graph
        ``submit_ms``  handing the graph to the device
        ``wait_ms``    waiting for the device: the sync
        ``LABEL_ms``   in a timed run: computing what has this label
        """
        taken = self._means.take() | {"peak_bytes": self.peak_bytes}
        self.peak_bytes = 0
        return taken

"""What a batch of deferred work consists of, and what it hands back to the host."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from energyflow_mlx.readback.guard import ReadbackError

if TYPE_CHECKING:
    from energyflow_mlx.readback.engine import ReadbackEngine

Converter = Callable[[Any], Any]


class BatchNotSynced(ReadbackError):
    """A deferred value was read before the sync of its batch."""


class BatchDiscarded(ReadbackError):
    """A deferred value was read after its batch was discarded by an exception."""


@dataclass(frozen=True)
class OperationTiming:
    """One deferred label, evaluated and timed on its own in debug mode."""

    label: str
    shapes: tuple[tuple[int, ...], ...]
    wall_ms: float


@dataclass(frozen=True)
class BatchTiming:
    """Where the time of one outermost batch went.

    Attributes:
        label: Label of the batch.
        build_ms: From ``begin`` to ``sync`` or launch, without ``submit_ms`` and what
            debug mode computes in between: host work and graph building.
        submit_ms: Handing graphs to the device. MLX's CPU computes most of them in
            that time, since it takes only so many operations ahead.
        sync_ms: The one evaluation at the end, or the wait of a landing.
        peak_bytes: Highest device memory from the last ``begin`` before the end of
            the sync to that end.
        operations: Per deferred label, debug mode only.
    """

    label: str
    build_ms: float
    submit_ms: float
    sync_ms: float
    peak_bytes: int
    operations: tuple[OperationTiming, ...] = ()

    def __str__(self) -> str:
        """One line for the log."""
        computed = sum(operation.wall_ms for operation in self.operations)
        before = self.build_ms + self.submit_ms + computed
        return (
            f"batch '{self.label}': {before:.2f} ms from begin to sync "
            f"(build {self.build_ms:.2f}, submit {self.submit_ms:.2f}, "
            f"labels {computed:.2f}), sync {self.sync_ms:.2f} ms, "
            f"peak {self.peak_bytes / 2**20:.1f} MiB"
        )


@dataclass
class Batch:
    """One open nesting level."""

    label: str
    started: float
    readbacks: list["Readback"] = field(default_factory=list)
    fenced: list[Any] = field(default_factory=list)
    operations: list[OperationTiming] = field(default_factory=list)
    submit_s: float = 0.0


class Readback:
    """A host value that can be read once its batch has been synced."""

    def __init__(
        self, engine: "ReadbackEngine", label: str, arrays: Any, convert: Converter
    ) -> None:
        self._engine = engine
        self._label = label
        self._arrays = arrays
        self._convert = convert
        self._host: Any = None
        # "free" | "open" | "flying" | "synced" | "discarded" | "read"
        self._state = "free"
        self._batch_label = ""
        self._flight: Flight | None = None

    @property
    def label(self) -> str:
        """The label given to ``defer``."""
        return self._label

    @property
    def array(self) -> Any:
        """The lazy array (or tree of arrays), to build further expressions on.

        Raises:
            ReadbackError: The value was read or the batch discarded, so the arrays
                were released; keep the array itself where it is needed for longer.
        """
        if self._state in ("read", "discarded"):
            raise ReadbackError(
                f"[readback] arrays of '{self._label}' must be taken before they are "
                f"released, got a readback already {self._state}."
            )
        return self._arrays

    def value(self) -> Any:
        """Return the host value; converted once, then remembered.

        Outside any batch an unevaluated readback evaluates itself, and one that is in
        flight lands its batch first.

        Raises:
            BatchNotSynced: Its batch is still open.
            BatchDiscarded: Its batch ended with an exception.
        """
        if self._flight is not None:
            self._flight.land()
        if self._state == "read":
            return self._host
        if self._state == "open":
            raise BatchNotSynced(
                f"[readback] '{self._label}' must be read after the sync of batch "
                f"'{self._batch_label}', got value() while that batch is open."
            )
        if self._state == "discarded":
            raise BatchDiscarded(
                f"[readback] '{self._label}' must belong to a completed batch, got "
                f"batch '{self._batch_label}', which an exception discarded."
            )
        with self._engine._guard.lifted():
            if self._state == "free":
                self._engine._evaluate(self._label, self._arrays)
            self._host = self._convert(self._arrays)
        self._release("read")
        return self._host

    def _release(self, state: str) -> None:
        """Drop the arrays, so that no graph or buffer outlives its use."""
        self._state = state
        self._arrays = None
        self._flight = None
        self._convert = to_host

    def __repr__(self) -> str:
        return f"Readback('{self._label}', {self._state})"


class Flight:
    """A batch that was launched: the device computes it, and nobody has waited yet.

    It holds what was deferred and nothing that was fenced: buffers of a state that the
    next batch replaces can be used again.

    Attributes:
        label: Label of the batch.
        timing: Where its time went, once it has landed.
    """

    def __init__(self, engine: "ReadbackEngine", label: str) -> None:
        self.label = label
        self.timing: BatchTiming | None = None
        self._engine = engine
        self._batch: Batch | None = None
        self._built = 0.0

    def land(self) -> None:
        """Wait until the device has computed the batch; later calls do nothing.

        Raises:
            ReadbackError: It has not been launched.
            RuntimeError: The evaluation failed; the batch is discarded.
        """
        if self.timing is not None:
            return
        if self._batch is None:
            raise ReadbackError(
                f"[readback] batch '{self.label}' must be launched before it lands, "
                "got one that is open or discarded."
            )
        batch, self._batch = self._batch, None
        self.timing = self._engine._land(batch, self._built)


def leaves_of(tree: Any) -> list[Any]:
    """Arrays (or whatever stands in their place) of a nested tree."""
    flat: Any = tree_flatten(tree)
    return [leaf for _, leaf in flat]


def widen(array: mx.array) -> mx.array:
    """NumPy has no bfloat16."""
    return array.astype(mx.float32) if array.dtype == mx.bfloat16 else array


def to_host(arrays: Any) -> Any:
    """Python numbers of scalars and NumPy copies of other arrays, the nesting kept."""
    return tree_map(lambda a: a.item() if a.ndim == 0 else np.array(a), arrays)

"""Deferred readback: the only room that evaluates arrays during training.

MLX arrays are lazy: building an expression submits nothing, ``mx.eval`` computes it.
Deferral is therefore the default and this engine is a thin discipline on top. Open a
*batch*, build the whole micro-batch, hand what the host wants to see to ``defer`` and
what must not stay lazy (parameters, optimizer state) to ``fence``. Leaving the batch
runs exactly one ``mx.eval`` on all of it; ``Readback.value()`` then only copies::

    engine = ReadbackEngine()
    with engine.batch("step 7"):
        loss, grads = loss_and_grad(model, batch)
        optimizer.update(model, grads)
        loss = engine.defer("loss", loss)
        engine.fence(model, optimizer.state)
    history.append(loss.value())

A batch opened with ``launched`` is started instead, and nobody waits: its *flight* is
landed later, while the device computes what was launched after it::

    with engine.launched("step 8") as flight:
        ...                          # as above
    launch_step_9()                  # the device has work ...
    history.append(loss.value())     # ... while the host waits for step 8

Reading a readback inside its own batch raises ``BatchNotSynced`` naming its label.
Batches nest: only the outermost one evaluates. An exception discards the batch it
leaves, and the readbacks of that batch then raise ``BatchDiscarded``.

Debug mode (``ReadbackEngine(debug=True)``) evaluates every deferred label at once and
times it, and refuses hidden reads (``.item()``, ``float(x)``, ``if x``, printing,
``mx.eval``) while a batch is open. NumPy reads through the buffer protocol, which
cannot be intercepted. An engine belongs to one thread at a time.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from energyflow_mlx.readback.guard import HiddenReadGuard, ReadbackError
from energyflow_mlx.readback.value import (
    Batch,
    BatchTiming,
    Converter,
    Flight,
    OperationTiming,
    Readback,
    leaves_of,
    to_host,
    widen,
)

logger = logging.getLogger(__name__)

# What MLX says where g++ left no library behind.
_NOT_COMPILED = "Could not load C++ shared library"


class ReadbackEngine:
    """Collects what a micro-batch computes and evaluates it all at once.

    Attributes:
        evaluations: Number of ``mx.eval`` calls made so far.
        submissions: Number of ``mx.async_eval`` calls made so far.
        last_timing: Timing of the last completed outermost batch.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug
        self.evaluations = 0
        self.submissions = 0
        self.last_timing: BatchTiming | None = None
        self._batches: list[Batch] = []
        self._thread = 0
        self._guard = HiddenReadGuard()

    @property
    def depth(self) -> int:
        """Number of open nesting levels."""
        return len(self._batches)

    def begin(self, label: str) -> None:
        """Open a batch, or a level inside the open one. Prefer ``batch``."""
        self._check_thread()
        if not self._batches:
            self._thread = threading.get_ident()
            mx.reset_peak_memory()
        self._batches.append(Batch(label, time.perf_counter()))
        if self.debug:
            self._guard.arm(label)

    def sync(self, label: str) -> None:
        """Close the innermost level; closing the outermost evaluates everything.

        Raises:
            ReadbackError: No batch is open, or ``label`` is not the innermost label.
            RuntimeError: The evaluation failed; the batch is discarded.
        """
        self._check_thread()
        self._check_innermost("sync", label)
        if len(self._batches) > 1:
            self._merge_into_parent()
            return
        batch = self._batches[0]
        built = time.perf_counter()
        try:
            with self._guard.lifted():
                trees = [readback._arrays for readback in batch.readbacks]
                self._evaluate(label, [trees, batch.fenced])
        except RuntimeError:
            self.discard(label)
            raise
        for readback in batch.readbacks:
            readback._state = "synced"
        self._batches.clear()
        self._guard.disarm()
        self._record(batch, built - batch.submit_s, time.perf_counter() - built)

    def launch(self, label: str, flight: Flight) -> None:
        """Close the outermost level and start computing it. Prefer ``launched``."""
        self._check_thread()
        self._check_innermost("launch", label)
        if len(self._batches) > 1:
            raise ReadbackError(
                f"[readback] launch must close the outermost batch, got '{label}' "
                f"inside '{self._batches[0].label}'."
            )
        batch = self._batches[0]
        flight._built = time.perf_counter() - batch.submit_s
        self.submit()
        for readback in batch.readbacks:
            readback._state, readback._flight = "flying", flight
        batch.fenced.clear()
        flight._batch = batch
        self._batches.clear()
        self._guard.disarm()

    @contextmanager
    def launched(self, label: str) -> Iterator[Flight]:
        """Like ``batch``, but started at the end of the body and not waited for.

        Yields:
            What is landed later; the readbacks of the batch land it too.
        """
        self.begin(label)
        depth = len(self._batches)
        flight = Flight(self, label)
        try:
            yield flight
            self.launch(label, flight)
        finally:
            if len(self._batches) >= depth:  # the body or the launch raised
                self._unwind(depth - 1)

    def _land(self, batch: Batch, built: float) -> BatchTiming:
        started = time.perf_counter()
        try:
            with self._guard.lifted():
                trees = [readback._arrays for readback in batch.readbacks]
                self._evaluate(batch.label, trees)
        except RuntimeError:
            for readback in batch.readbacks:
                readback._release("discarded")
            raise
        for readback in batch.readbacks:
            readback._state, readback._flight = "synced", None
        return self._record(batch, built, time.perf_counter() - started)

    def discard(self, label: str) -> None:
        """Drop the innermost level without evaluating; its readbacks turn invalid."""
        self._check_innermost("discard", label)
        self._unwind(len(self._batches) - 1)

    @contextmanager
    def batch(self, label: str) -> Iterator[None]:
        """``begin`` on entry, ``sync`` on exit, ``discard`` when the body raises."""
        self.begin(label)
        depth = len(self._batches)
        try:
            yield
            if len(self._batches) != depth:
                raise ReadbackError(
                    f"[readback] batch '{label}' must end at its own level {depth}, "
                    f"got {len(self._batches)} open levels."
                )
            self.sync(label)
        finally:
            if len(self._batches) >= depth:  # the body or the sync raised
                self._unwind(depth - 1)

    def defer(
        self, label: str, arrays: Any, convert: Converter | None = None
    ) -> Readback:
        """Register arrays whose host value is wanted after the sync.

        Args:
            label: Name of the value in errors and timings.
            arrays: An ``mx.array`` or a nested dict, list or tuple of them.
            convert: From the evaluated arrays to the host value. By default a scalar
                becomes a Python number and any other array a NumPy copy (bfloat16 as
                float32), the nesting kept.

        Returns:
            The readback. Outside a batch it may be read at any time.
        """
        self._check_thread()
        leaves = leaves_of(arrays)
        if not leaves or not all(isinstance(leaf, mx.array) for leaf in leaves):
            kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
            raise TypeError(
                f"[readback] '{label}' must be an mx.array or a tree of them, "
                f"got {', '.join(kinds)}."
            )
        if convert is None:
            arrays = tree_map(widen, arrays)  # part of the graph, not of the read
        readback = Readback(self, label, arrays, convert or to_host)
        if self._batches:
            readback._state = "open"
            readback._batch_label = self._batches[-1].label
            self._batches[-1].readbacks.append(readback)
        if self.debug:
            self._time_operation(label, arrays)
        return readback

    def fence(self, *trees: Any) -> None:
        """Evaluate these trees at the sync too, without a host copy.

        A module or a state dict is looked into at the sync, so it may be updated
        after this call. Without the fence on parameters and optimizer state the
        graph would grow from step to step.
        """
        self._check_thread()
        if not self._batches:
            raise ReadbackError(
                "[readback] fence must be called inside a batch, got none open."
            )
        self._batches[-1].fenced.extend(trees)

    def submit(self, readbacks: list[Readback] | None = None) -> None:
        """Start computing without waiting, to overlap host work.

        Args:
            readbacks: What to start; by default all that was deferred and fenced in
                the open batch. Reading still has to wait for the sync.
        """
        self._check_thread()
        if readbacks is None:
            levels = self._batches
            trees = [[r._arrays for r in level.readbacks] for level in levels]
            trees.append([level.fenced for level in levels])
        else:
            trees = [readback.array for readback in readbacks]
        self.start(trees)

    def start(self, *trees: Any) -> None:
        """Start computing trees of arrays that are built in parts; waits for none."""
        started = time.perf_counter()
        with self._guard.lifted():
            _computed(mx.async_eval, trees)
        self.submissions += 1
        if self._batches:
            self._batches[0].submit_s += time.perf_counter() - started

    def _evaluate(self, label: str, tree: Any) -> None:
        self.evaluations += 1
        try:
            _computed(mx.eval, tree)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"[readback] evaluation of '{label}' must succeed, got: {error}"
            ) from error

    def _time_operation(self, label: str, arrays: Any) -> None:
        started = time.perf_counter()
        with self._guard.lifted():
            self._evaluate(label, arrays)
        wall_ms = (time.perf_counter() - started) * 1e3
        shapes = tuple(tuple(leaf.shape) for leaf in leaves_of(arrays))
        shown = f"shapes {shapes}" if len(shapes) <= 4 else f"{len(shapes)} arrays"
        logger.info("readback '%s': %.3f ms, %s", label, wall_ms, shown)
        if self._batches:
            timing = OperationTiming(label, shapes, wall_ms)
            self._batches[-1].operations.append(timing)

    def _merge_into_parent(self) -> None:
        batch = self._batches.pop()
        parent = self._batches[-1]
        for readback in batch.readbacks:
            readback._batch_label = parent.label
        parent.readbacks += batch.readbacks
        parent.fenced += batch.fenced
        parent.operations += batch.operations

    def _unwind(self, depth: int) -> None:
        while len(self._batches) > depth:
            for readback in self._batches.pop().readbacks:
                readback._release("discarded")
        if not self._batches:
            self._guard.disarm()

    def _record(self, batch: Batch, built: float, waited: float) -> BatchTiming:
        computed = sum(operation.wall_ms for operation in batch.operations)
        self.last_timing = timing = BatchTiming(
            label=batch.label,
            build_ms=(built - batch.started) * 1e3 - computed,
            submit_ms=batch.submit_s * 1e3,
            sync_ms=waited * 1e3,
            peak_bytes=mx.get_peak_memory(),
            operations=tuple(batch.operations),
        )
        logger.debug("%s", timing)
        return timing

    def _check_innermost(self, verb: str, label: str) -> None:
        if not self._batches:
            raise ReadbackError(
                f"[readback] {verb} must follow a begin, got {verb}('{label}') with "
                f"no batch open."
            )
        innermost = self._batches[-1].label
        if innermost != label:
            raise ReadbackError(
                f"[readback] {verb} must name the innermost batch '{innermost}', "
                f"got '{label}'."
            )

    def _check_thread(self) -> None:
        if self._batches and threading.get_ident() != self._thread:
            raise ReadbackError(
                f"[readback] batch '{self._batches[0].label}' must be used by the "
                f"thread that opened it, got another thread."
            )


def _computed(evaluate: Callable[[Any], None], tree: Any) -> None:
    """Evaluate, and once more where the compiler of a fused expression was cut short.

    A terminal sends Ctrl-C to the compilers that MLX starts on a CPU, too, while the
    run wants to finish its update.
    """
    try:
        evaluate(tree)
    except RuntimeError as error:
        if _NOT_COMPILED not in str(error):
            raise
        evaluate(tree)

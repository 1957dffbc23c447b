"""Where the time and the memory of a run's updates go.

The same updates run four times: once to trace every shape, then as in training, with
one in flight, then one at a time, then with each part computed on its own. Nothing is
saved.
"""

import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.feed import Update
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.timing import UpdateTimings

Report = dict[str, Any]
_MOST_SHOWN = 10


def profile_updates(
    trainer: Trainer, count: int, around: Callable[[], Any] | None = None
) -> Report:
    """Profile the next updates of a run, at the weights it has.

    Args:
        trainer: Of the run; its weights go on, its folder is left alone.
        count: Updates in each of the four passes.
        around: Makes a context that holds the pass which runs as in training, such as
            a capture of the GPU.

    Returns:
        Times in ms, memory in bytes, plain values for JSON.
    """
    first = trainer.progress.step
    steps = range(first, first + count)
    trainer.codec.model.train()
    _each_alone(trainer, steps)  # traces every shape
    traces = dict(trainer.stepper.traces)
    mx.reset_peak_memory()
    if around is None:
        overlapped, host = _as_in_training(trainer, steps)
    else:
        with around():
            overlapped, host = _as_in_training(trainer, steps)
    memory = _memory(trainer, int(host.pop("peak_bytes")))
    alone = _each_alone(trainer, steps)
    sentences = trainer.feed.batch_size // trainer.group.size
    median = float(np.median(overlapped))
    return {
        "updates": count,
        "step_ms": _spread(overlapped),
        "samples_per_second": sentences / median * 1e3,
        "one_at_a_time_ms": _spread(alone),
        "host_ms": {name.removesuffix("_ms"): value for name, value in host.items()},
        "parts_ms": _parts(trainer, steps),
        "layers_ms": _layers(trainer, steps),
        "operations": _operations(trainer, steps),
        "compiled": {"traces": traces, "batches": _shapes(trainer, steps)},
        "memory_bytes": memory,
    }


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "median": float(np.median(times)),
        "p90": float(np.percentile(times, 90)),
    }


# -- whole updates --------------------------------------------------------------------


def _each_alone(trainer: Trainer, steps: range) -> list[float]:
    """Time of each update when nothing overlaps, ms."""
    times = []
    with closing(trainer.updates.updates(steps.start)) as feed:
        for step in steps:
            started = time.perf_counter()
            trainer.run_update(step, next(feed))
            times.append((time.perf_counter() - started) * 1e3)
    return times


def _as_in_training(
    trainer: Trainer, steps: range
) -> tuple[list[float], dict[str, float]]:
    """Time from one update's values to the next's, and the host's share, ms."""
    times = []
    trainer.timings = UpdateTimings()
    with closing(trainer.updates.updates(steps.start)) as feed:
        started = time.perf_counter()
        for _ in trainer.landed(feed, steps):
            times.append((time.perf_counter() - started) * 1e3)
            started = time.perf_counter()
    return times, trainer.timings.take()


def _memory(trainer: Trainer, peak: int) -> dict[str, int]:
    state = trainer.stepper.state
    return {
        "peak": peak,
        "active": mx.get_active_memory(),
        "parameters": _size(state.parameters),
        "moments": _size(state.moments),
    }


def _size(tree: Any) -> int:
    flat: Any = tree_flatten(tree)
    return sum(array.nbytes for _, array in flat)


# -- parts of them --------------------------------------------------------------------


def _first_of_each(trainer: Trainer, steps: range) -> dict[str, tuple[int, Update]]:
    """The first update of each objective."""
    found: dict[str, tuple[int, Update]] = {}
    with closing(trainer.updates.updates(steps.start)) as feed:
        for step in steps:
            update = next(feed)
            found.setdefault(trainer.alternation.objective_of(step), (step, update))
    return found


def _parts(trainer: Trainer, steps: range) -> dict[str, dict[str, float]]:
    """Time of forward pass, loss, gradient and update, each computed alone."""
    engine = trainer.engine
    found = {}
    engine.debug = True
    try:
        for name, (step, update) in _first_of_each(trainer, steps).items():
            samples: dict[str, list[float]] = {}
            for repeat in range(4):
                submitted = trainer.submit(step, update)
                trainer.values_of(submitted)
                for flight in submitted.flights if repeat else ():  # the first traces
                    assert flight.timing is not None
                    for operation in flight.timing.operations:
                        part = operation.label.split()[-1]
                        samples.setdefault(part, []).append(operation.wall_ms)
            parts = ("forward", "loss", "gradient", "update")
            found[name] = {
                p: float(np.median(samples[p])) for p in parts if p in samples
            }
    finally:
        engine.debug = trainer.config.trainer.debug_timing
    return found


def _layers(trainer: Trainer, steps: range) -> dict[str, dict[str, float]]:
    """Forward time of each layer, without the layers inside it, dearest first."""
    found = {}
    stepper, model = trainer.stepper, trainer.codec.model
    for name, (step, update) in _first_of_each(trainer, steps).items():
        objective, engine = trainer.objectives[name], ReadbackEngine(debug=True)
        controls = {k: mx.array(v) for k, v in objective.controls(step).items()}
        batch = update[0]._replace(controls=controls)
        times: dict[str, float] = {}
        for repeat in range(3):
            with engine.batch("layers"), _each_layer_computed(model, engine):
                stepper.forward(name, batch, mx.random.key(step))
            assert engine.last_timing is not None
            for operation in engine.last_timing.operations if repeat else ():
                label = operation.label
                times[label] = times.get(label, 0.0) + operation.wall_ms / 2
        dearest = sorted(times.items(), key=lambda item: -item[1])
        found[name] = dict(dearest[:_MOST_SHOWN])
    return found


@contextmanager
def _each_layer_computed(model: nn.Module, engine: ReadbackEngine) -> Iterator[None]:
    """Compute what each layer gives as soon as it gives it, under its path."""
    paths = {id(module): path or "model" for path, module in model.named_modules()}
    kinds = {type(module) for module in model.modules() if callable(module)}
    originals = {kind: kind.__call__ for kind in kinds}

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = call(layer, *args, **kwargs)
            if isinstance(given, mx.array):
                engine.defer(paths.get(id(layer), "model"), given, lambda a: a)
            return given

        return wrapper

    own = {kind: "__call__" in vars(kind) for kind in kinds}
    for kind in kinds:
        kind.__call__ = timed(originals[kind])
    mx.disable_compile()  # inside a compiled part nothing could be computed
    try:
        yield
    finally:
        mx.enable_compile()
        for kind in kinds:
            if own[kind]:
                kind.__call__ = originals[kind]
            else:
                del kind.__call__


# -- graphs ---------------------------------------------------------------------------


def _operations(trainer: Trainer, steps: range) -> dict[str, dict[str, int]]:
    """Operations in the graph of one update, by kind; fused ones count once."""
    found = {}
    for name, (step, update) in _first_of_each(trainer, steps).items():
        submit = _captured_graph(trainer, step, update)
        kinds = Counter(re.findall(r'label ?= ?"(\w[\w ]+)"', submit))
        fused = sum(n for kind, n in kinds.items() if kind.startswith("Compiled"))
        plain = {k: n for k, n in kinds.most_common() if not k.startswith("Compiled")}
        found[name] = {
            "all": sum(kinds.values()),
            "fused": fused,
            "fills": plain.get("Full", 0),
            **dict(list(plain.items())[:_MOST_SHOWN]),
        }
    return found


def _captured_graph(trainer: Trainer, step: int, update: Update) -> str:
    """The lazy graph of an update, as MLX draws it, before it is computed."""
    engine, drawn = trainer.engine, io.StringIO()
    start = engine.start

    def draw(*trees: Any) -> None:
        flat: Any = tree_flatten(trees)
        mx.export_to_dot(drawn, *[a for _, a in flat if isinstance(a, mx.array)])
        start(*trees)

    engine.start = draw  # type: ignore[method-assign]
    try:
        trainer.run_update(step, update)
    finally:
        del engine.start
    return drawn.getvalue()


def _shapes(trainer: Trainer, steps: range) -> dict[str, int]:
    """How many of the micro-batches have each shape, as ``BxL``."""
    shapes: Counter[str] = Counter()
    with closing(trainer.updates.updates(steps.start)) as feed:
        for _ in steps:
            shapes["x".join(map(str, next(feed)[0].ids.shape))] += 1
    return dict(shapes)


# -- for people -----------------------------------------------------------------------


def describe(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table that people read."""
    step, alone = report["step_ms"], report["one_at_a_time_ms"]
    rows = [
        ("update", f"{step['median']:.2f} ms, 90 % below {step['p90']:.2f} ms"),
        ("sentences", f"{report['samples_per_second']:.0f} a second"),
        ("without overlap", f"{alone['median']:.2f} ms"),
        ("host", _listed(report["host_ms"], ("batch", "build", "submit", "wait"))),
    ]
    for name, parts in report["parts_ms"].items():
        rows.append((f"{name}: parts", _listed(parts, parts)))
    for name, layers in report["layers_ms"].items():
        rows.append((f"{name}: layers", _listed(layers, list(layers)[:4])))
    for name, kinds in report["operations"].items():
        listed = ", ".join(f"{k} {n}" for k, n in list(kinds.items())[:8])
        rows.append((f"{name}: operations", listed))
    traces = report["compiled"]["traces"]
    rows.append(("traces", ", ".join(f"{k} {n}" for k, n in traces.items())))
    memory = {k: f"{v / 2**20:.0f} MiB" for k, v in report["memory_bytes"].items()}
    rows.append(("memory", ", ".join(f"{k} {v}" for k, v in memory.items())))
    return rows


def _listed(values: Mapping[str, float], names: Any) -> str:
    return ", ".join(f"{name} {values[name]:.2f} ms" for name in names)

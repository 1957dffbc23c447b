"""One training update: gradients of micro-batches, clip, step, all in one graph.

Parameters, moments, loss scale and average are inputs and outputs of pure functions,
compiled once per objective and batch shape. Between updates they lie in packs, see
``packing``: clipping, stepping and the change of format are a few passes over a few
vectors. Gathered token tables enter the gradient as the rows the update touches; see
``token_rows``.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
from mlx.utils import tree_flatten

from energyflow_mlx.config import Config
from energyflow_mlx.model import (
    EnergyFlow,
    Slots,
    flat_parameters,
    parameter_slots,
    put_parameters,
)
from energyflow_mlx.ops import on_gpu
from energyflow_mlx.ops.adamw import Adamw, Rates, gradient_norm
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.training.averaging import init_average, next_average
from energyflow_mlx.training.objectives.base import (
    Differentiated,
    Objective,
    StepBatch,
)
from energyflow_mlx.training.optimizer import (
    COUNT,
    Arrays,
    Moments,
    clip_scale,
    group_of,
    init_moments,
    rule_of,
    stepped,
)
from energyflow_mlx.training.packing import Packing
from energyflow_mlx.training.precision import (
    DTYPES,
    cast_parameters,
    init_loss_scale,
    most_skipped,
    next_loss_scale,
)
from energyflow_mlx.training.state import Gradients, TrainState, sum_over
from energyflow_mlx.training.token_rows import (
    TokenRows,
    gather,
    gathered_tables,
    installed,
    is_only_looked_up,
    is_token_parameter,
    step_rows,
)
from energyflow_mlx.training.trainable import trainable_paths, under


@dataclass
class Stepper:
    """Runs updates of any objective on one train state.

    Args:
        model: The model; its parameters are installed after every update.
        config: The run's configuration.
        objectives: What can be trained.
        engine: Computes; an update only tells it what may start early.
        group: The processes whose gradients are summed.

    Attributes:
        packing: Which parameters lie together.
        traces: How often each compiled function was traced, by name; a test
            holds it to once per objective and shape.
    """

    model: EnergyFlow
    config: Config
    objectives: Sequence[Objective]
    engine: ReadbackEngine = field(default_factory=ReadbackEngine)
    group: Group = ALONE
    packing: Packing = field(init=False)
    traces: dict[str, int] = field(default_factory=dict)
    _slots: Slots = field(init=False)
    _compiled: dict[str, Callable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over the model's parameters and prepare the moments."""
        parameters = flat_parameters(self.model)
        self._slots = parameter_slots(self.model)
        learning = dict(tree_flatten(self.model.trainable_parameters()))
        self.trainable = trainable_paths(learning, self.config.trainer)
        self.gathered = gathered_tables(parameters, self.config) & self.trainable
        self._differentiated: Mapping[str, Differentiated] = {
            o.name: o.differentiate(self.model, self._installed, self.engine)
            for o in self.objectives
        }
        self._stepped = {
            o.name: under(self.trainable, o.parts) for o in self.objectives
        }
        shapes = {path: array.shape for path, array in parameters.items()}
        self.packing = Packing(parameters, lambda path: self._fate(path, shapes[path]))
        self._averaged = {
            o.name: self.packing.holding(under(parameters, o.averaged_parts))
            for o in self.objectives
        }
        packs, settings = self.packing.packs, self.config.optimizer
        self._rules = {n: rule_of(pack.shapes, settings) for n, pack in packs.items()}
        moments = {
            path: init_moments(path, parameters[path], settings)
            for path in sorted(self.trainable)
        }
        state = TrainState(
            parameters=parameters,
            moments=moments,
            loss_scale=init_loss_scale(self.config.precision),
            average=init_average(parameters, self.trainable, self.config.trainer.ema),
        )
        self.restore(state)

    def _fate(self, path: str, shape: tuple[int, ...]) -> Hashable | None:
        """Name what parameters of a pack share: who steps them, and how.

        On a CPU, where nothing is launched, every tensor is alone.
        """
        if not on_gpu():
            return None
        steppers = frozenset(n for n, paths in self._stepped.items() if path in paths)
        if is_token_parameter(path) or not steppers:
            return None
        return steppers, group_of(path, shape, self.config.optimizer)

    @property
    def state(self) -> TrainState:
        """Current parameters, moments, loss scale and average, by path."""
        moments: dict[str, Moments] = {}
        for name, packed in self._packed.moments.items():
            kinds = packed.keys() - {COUNT}
            split = {k: self.packing.split({name: packed[k]}) for k in sorted(kinds)}
            for path in self.packing.packs[name].shapes:
                own = {k: arrays[path] for k, arrays in split.items()}
                moments[path] = {**own, COUNT: packed[COUNT]}
        parameters = self.packing.split(self._packed.parameters)
        packed_average = self._packed.average
        average = packed_average._replace(
            weights=self.packing.split(packed_average.weights)
        )
        return TrainState(parameters, moments, self._packed.loss_scale, average)

    def arrays(self) -> list[mx.array]:
        """Give what an update computes and the next one needs, to wait for."""
        parameters, moments, scale, average = self._packed
        return [
            *parameters.values(),
            *(a for moment in moments.values() for a in moment.values()),
            *scale,
            *average.weights.values(),
            average.updates,
        ]

    def restore(self, state: TrainState) -> None:
        """Continue from a saved state."""
        moments: dict[str, Moments] = {}
        for pack in self.packing.of(set(state.moments)):
            each = [state.moments[path] for path in pack.shapes]
            by_path = dict(zip(pack.shapes, each, strict=True))
            moments[pack.name] = {
                k: pack.join({path: moment[k] for path, moment in by_path.items()})
                for k in sorted(each[0].keys() - {COUNT})
            }
            moments[pack.name][COUNT] = each[0][COUNT]
        packed = self.packing.join(state.parameters)
        average = state.average._replace(
            weights=self.packing.join(state.average.weights)
        )
        new = TrainState(packed, moments, state.loss_scale, average)
        self._take(new, state.parameters)

    def install_average(self) -> None:
        """Put the averaged weights, where the run keeps any, into the model."""
        averaged = self.packing.split(self._packed.average.weights)
        put_parameters(self._slots, averaged)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model has the weights that are measured and kept."""
        self.install_average()
        try:
            yield
        finally:
            put_parameters(self._slots, self._tensors)

    def _installed(
        self, parameters: Arrays, rows: TokenRows
    ) -> AbstractContextManager[None]:
        """Context in which the model has an update's parameters, in compute format."""
        precision = self.config.precision
        cast = cast_parameters(parameters, precision, keep=is_token_parameter)
        dtype = DTYPES[precision.dtype]
        return installed(self.model, cast, self.gathered, rows, dtype)

    def _gradients(
        self, name: str, state: TrainState, batch: StepBatch, key: mx.array
    ) -> Gradients:
        """Gradients of one micro-batch's loss sum with respect to what it steps."""
        state = state.for_gradients(self._averaged[name])
        everything = self._read(name, state.parameters, batch.rows)
        stepped = {path: everything.pop(path) for path in self._stepped[name]}
        averages = self._read(name, state.average.weights, batch.rows)
        read = under(averages, self._objective(name).averaged_parts)
        fixed = everything | {path: averages[path] for path in read}
        scale = state.loss_scale.scale
        outcome, gradients = self._differentiated[name].function(
            stepped, fixed, batch, key, scale
        )
        joined = self.packing.join(gradients)
        wide = {name: g.astype(mx.float32) for name, g in joined.items()}
        return Gradients(wide, *outcome)

    def _read(self, name: str, vectors: Arrays, rows: TokenRows) -> Arrays:
        """Tensors that an objective computes with, by path, of packs by name."""
        vectors = gather(vectors, self.gathered & vectors.keys(), rows)
        if self._differentiated[name].is_one_graph:  # else it adds up float32 gradients
            precision = self.config.precision
            vectors = cast_parameters(vectors, precision, keep=is_token_parameter)
        return self.packing.split(vectors)

    def _apply(
        self,
        state: TrainState,
        total: Gradients,
        rows: TokenRows,
        lr: mx.array,
        told: Arrays,
    ) -> tuple[TrainState, Arrays, Arrays]:
        """New state from summed gradients, its tensors, and the values to report.

        The sum over all processes is taken here, once an update, also of what is
        ``told`` beside the gradients; it is reported as it is. The state stays as it
        was where loss or gradient is not finite, and at later updates that are on
        their way when the host learns of it; see ``precision``.
        """
        total, told = sum_over(self.group, total, told)
        parameters, moments, loss_scale, average = state
        config = self.config.optimizer
        divide = 1.0 / (loss_scale.scale * total.count)
        norm = gradient_norm(list(total.gradients.values())) * divide
        finite = mx.isfinite(norm) & mx.isfinite(total.loss)
        most = most_skipped(self.config)
        scale, moves = next_loss_scale(loss_scale, finite, self.config.precision, most)
        rates = Rates(divide * clip_scale(norm, config.clip_norm), lr, moves)
        new_parameters, new_moments = dict(parameters), dict(moments)
        for name, gradient in total.gradients.items():
            old, own = parameters[name], moments[name]
            if name in self.gathered:
                table, only = Adamw(old, **own), is_only_looked_up(name, self.config)
                new = stepped(
                    step_rows(table, gradient, rows, rates, config, only_occurring=only)
                )
            else:
                new = self._rules[name].step(old, own, gradient, rates)
            new_parameters[name], new_moments[name] = new
        report = told | {name: m / total.count for name, m in total.metrics.items()}
        report["loss"] = total.loss / total.count
        report |= {"grad_norm": norm, "moved": moves}
        if self.config.precision.dtype == "float16":
            report["loss_scale"] = loss_scale.scale
        tensors = self.packing.split(new_parameters)
        decay = self.config.trainer.ema
        average = next_average(average, new_parameters, moves, decay)
        return TrainState(new_parameters, new_moments, scale, average), tensors, report

    def _whole_update(
        self,
        name: str,
        state: TrainState,
        batch: StepBatch,
        key: mx.array,
        lr: mx.array,
        told: Arrays,
    ) -> tuple[TrainState, Arrays, Arrays]:
        """Forward to the step."""
        total = self._gradients(name, state, batch, key)
        return self._apply(state, total, batch.rows, lr, told)

    def _compile(self, name: str, function: Callable) -> Callable:
        """Compiled ``function``, kept by name; counts its traces."""
        if name not in self._compiled:

            def counted(*args: object) -> object:
                self.traces[name] = self.traces.get(name, 0) + 1
                return function(*args)

            compiled = mx.compile(counted) if self.config.trainer.compile else counted
            self._compiled[name] = compiled
        return self._compiled[name]

    def micro_gradients(
        self, objective: str, batch: StepBatch, key: mx.array
    ) -> Gradients:
        """Lazy gradients of one micro-batch."""
        if self.engine.debug:
            self._time_forward(objective, batch, key)

        def function(state: TrainState, batch: StepBatch, key: mx.array) -> Gradients:
            return self._gradients(objective, state, batch, key)

        if self._differentiated[objective].is_one_graph:
            function = self._compile(f"{objective} gradients", function)
        state = self._packed.for_gradients(self._averaged[objective])
        found = function(state, batch, key)
        put_parameters(self._slots, self._tensors)
        self._time(f"{objective} gradient", found.gradients)
        return found

    def _time_forward(self, name: str, batch: StepBatch, key: mx.array) -> None:
        """Compute the forward pass alone, then it with the loss, to time both."""
        objective = self._objective(name)
        for part, compute in (("forward", objective.forward), ("loss", objective.loss)):
            function: Callable = partial(self._computed, compute)
            if self._differentiated[name].is_one_graph:
                function = self._compile(f"{name} {part}", function)
            found = function(self.state.for_gradients(), batch, key)
            put_parameters(self._slots, self._tensors)
            if found is not None:
                self._time(f"{name} {part}", found)

    def forward(self, name: str, batch: StepBatch, key: mx.array) -> object:
        """Forward pass of an objective with the present state, lazy, not compiled."""
        compute = self._objective(name).forward
        found = self._computed(compute, self.state, batch, key)
        put_parameters(self._slots, self._tensors)
        return found

    def _computed(
        self, compute: Callable, state: TrainState, batch: StepBatch, key: mx.array
    ) -> object:
        """What a part of an objective gives with these weights, for its time alone."""
        everything = gather(state.parameters, self.gathered, batch.rows)
        with self._installed(everything, batch.rows):
            return compute(self.model, batch, key)

    def _objective(self, name: str) -> Objective:
        return next(o for o in self.objectives if o.name == name)

    def _time(self, label: str, arrays: object) -> None:
        """In a timed run: compute these now, under this label."""
        if self.engine.debug:
            self.engine.defer(label, arrays, lambda arrays: arrays)

    def apply(
        self, total: Gradients, rows: TokenRows, lr: float, told: Arrays
    ) -> Arrays:
        """Apply summed gradients to the state; returns the lazy report values."""
        apply = self._compile("apply", self._apply)
        state, tensors, report = apply(self._packed, total, rows, mx.array(lr), told)
        self._take(state, tensors)
        self._time("update", self.arrays())
        return report

    def update(
        self,
        objective: str,
        batch: StepBatch,
        key: mx.array,
        lr: float,
        told: Arrays | None = None,
    ) -> Arrays:
        """One update from one micro-batch; returns the lazy report values.

        From forward to step it is one compiled graph where the objective's gradient is,
        except in a timed run, which times its parts; ``told`` is summed and reported.
        """
        if self.engine.debug or not self._differentiated[objective].is_one_graph:
            total = self.micro_gradients(objective, batch, key)
            return self.apply(total, batch.rows, lr, told or {})

        def function(*arguments: object) -> tuple[TrainState, Arrays, Arrays]:
            return self._whole_update(objective, *arguments)  # type: ignore[arg-type]

        compiled = self._compile(f"{objective} update", function)
        state, tensors, report = compiled(
            self._packed, batch, key, mx.array(lr), told or {}
        )
        self._take(state, tensors)
        return report

    def _take(self, packed: TrainState, tensors: Arrays) -> None:
        self._packed, self._tensors = TrainState(*packed), tensors
        put_parameters(self._slots, tensors)

"""One training update: gradients of micro-batches, clip, AdamW, all in one graph.

Parameters, moments and the loss scale are inputs and outputs of pure functions,
compiled once per objective and batch shape. Gathered token tables enter the gradient as
the rows the update touches; see ``token_rows``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.model import (
    EnergyFlow,
    Slots,
    flat_parameters,
    parameter_slots,
    put_parameters,
)
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runtime.distributed import ALONE, Group
from energyflow_mlx.training.objectives.base import (
    Differentiated,
    Objective,
    StepBatch,
)
from energyflow_mlx.training.optimizer import (
    Arrays,
    StepScalars,
    adamw,
    begin_step,
    clip_scale,
    decays,
    global_norm,
    init_moments,
)
from energyflow_mlx.training.precision import (
    cast_parameters,
    init_loss_scale,
    next_loss_scale,
)
from energyflow_mlx.training.state import Gradients, TrainState, sum_over
from energyflow_mlx.training.token_rows import (
    TokenRows,
    adamw_rows,
    gather,
    gathered_tables,
    installed,
    is_only_looked_up,
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
        state: Current parameters, moments, loss scale.
        traces: How often each compiled function was traced, by name; a test
            holds it to once per objective and shape.
    """

    model: EnergyFlow
    config: Config
    objectives: Sequence[Objective]
    engine: ReadbackEngine = field(default_factory=ReadbackEngine)
    group: Group = ALONE
    state: TrainState = field(init=False)
    traces: dict[str, int] = field(default_factory=dict)
    _slots: Slots = field(init=False)
    _compiled: dict[str, Callable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over the model's parameters and prepare the moments."""
        parameters = flat_parameters(self.model)
        self._slots = parameter_slots(self.model)
        self.trainable = trainable_paths(parameters, self.config.trainer)
        self.gathered = gathered_tables(parameters, self.config) & self.trainable
        self._differentiated: Mapping[str, Differentiated] = {
            o.name: o.differentiate(self.model, self._installed, self.engine)
            for o in self.objectives
        }
        self._stepped = {
            o.name: under(self.trainable, o.parts) for o in self.objectives
        }
        # Parameters that the same objectives step have had equally many updates.
        self._stepped_by = {
            path: tuple(name for name, paths in self._stepped.items() if path in paths)
            for path in self.trainable
        }
        self.state = TrainState(
            parameters=parameters,
            moments={p: init_moments(parameters[p]) for p in sorted(self.trainable)},
            loss_scale=init_loss_scale(self.config.precision),
        )

    def restore(self, state: TrainState) -> None:
        """Continue from a saved state."""
        self._take(state)

    # -- pure functions ------------------------------------------------------

    def _installed(
        self, parameters: Arrays, rows: TokenRows
    ) -> AbstractContextManager[None]:
        """Context in which the model has an update's parameters, in compute format."""
        cast = cast_parameters(parameters, self.config.precision)
        return installed(self.model, cast, self.gathered, rows)

    def _gradients(
        self, name: str, state: TrainState, batch: StepBatch, key: mx.array
    ) -> Gradients:
        """Gradients of one micro-batch's loss sum with respect to what it steps."""
        everything = gather(state.parameters, self.gathered, batch.rows)
        stepped = {path: everything.pop(path) for path in self._stepped[name]}
        function = self._differentiated[name].function
        scale = state.loss_scale.scale
        outcome, gradients = function(stepped, everything, batch, key, scale)
        return Gradients(gradients, *outcome)

    def _apply(
        self, state: TrainState, total: Gradients, rows: TokenRows, lr: mx.array
    ) -> tuple[TrainState, Arrays]:
        """New state from summed gradients, and the values to report.

        The sum over all processes is taken here, once an update. The state stays as it
        was where loss or gradient is not finite: the host learns of it when later
        updates are on their way.
        """
        total = sum_over(self.group, total)
        parameters, moments, loss_scale = state
        config = self.config.optimizer
        divide = 1.0 / (loss_scale.scale * total.count)
        gradients = {
            path: g.astype(mx.float32) * divide for path, g in total.gradients.items()
        }
        norm = global_norm(gradients)
        finite = mx.isfinite(norm) & mx.isfinite(total.loss)
        clip = clip_scale(norm, config.clip_norm)
        new_parameters, new_moments = dict(parameters), dict(moments)
        steps: dict[tuple[str, ...], StepScalars] = {}
        for path, gradient in gradients.items():
            old, moment = parameters[path], moments[path]
            gradient = mx.where(finite, gradient * clip, 0.0)
            group = self._stepped_by[path]
            if group not in steps:
                steps[group] = begin_step(moment["t"], lr, finite, config)
            if path in self.gathered:
                new, changed = adamw_rows(
                    old,
                    gradient,
                    moment,
                    rows,
                    steps[group],
                    config,
                    only_occurring=is_only_looked_up(path, self.config),
                )
            else:
                decay = config.weight_decay if decays(path, old) else 0.0
                new, changed = adamw(old, gradient, moment, steps[group], decay, config)
            new_parameters[path], new_moments[path] = new, changed
        scale = next_loss_scale(loss_scale, finite, self.config.precision)
        report = {name: m / total.count for name, m in total.metrics.items()}
        report["loss"] = total.loss / total.count
        report["grad_norm"] = norm
        return TrainState(new_parameters, new_moments, scale), report

    def _whole_update(
        self,
        name: str,
        state: TrainState,
        batch: StepBatch,
        key: mx.array,
        lr: mx.array,
    ) -> tuple[TrainState, Arrays]:
        """Forward to AdamW."""
        total = self._gradients(name, state, batch, key)
        return self._apply(state, total, batch.rows, lr)

    # -- compiled forms ------------------------------------------------------

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
        # Of the state the gradients read no moments: they stay out of the graph.
        found = function(self.state._replace(moments={}), batch, key)
        put_parameters(self._slots, self.state.parameters)
        self._time(f"{objective} gradient", found.gradients)
        return found

    def _time_forward(self, name: str, batch: StepBatch, key: mx.array) -> None:
        """Compute the forward pass alone, then it with the loss, to time both."""
        objective = self._objective(name)
        for part, compute in (("forward", objective.forward), ("loss", objective.loss)):

            def function(
                state: TrainState,
                batch: StepBatch,
                key: mx.array,
                compute: Callable = compute,
            ) -> object:
                everything = gather(state.parameters, self.gathered, batch.rows)
                with self._installed(everything, batch.rows):
                    return compute(self.model, batch, key)

            if self._differentiated[name].is_one_graph:
                function = self._compile(f"{name} {part}", function)
            found = function(self.state._replace(moments={}), batch, key)
            put_parameters(self._slots, self.state.parameters)
            if found is not None:
                self._time(f"{name} {part}", found)

    def forward(self, name: str, batch: StepBatch, key: mx.array) -> object:
        """Forward pass of an objective with the present state, lazy, not compiled."""
        everything = gather(self.state.parameters, self.gathered, batch.rows)
        with self._installed(everything, batch.rows):
            found = self._objective(name).forward(self.model, batch, key)
        put_parameters(self._slots, self.state.parameters)
        return found

    def _objective(self, name: str) -> Objective:
        return next(o for o in self.objectives if o.name == name)

    def _time(self, label: str, arrays: object) -> None:
        """In a timed run: compute these now, under this label."""
        if self.engine.debug:
            self.engine.defer(label, arrays, lambda arrays: arrays)

    def apply(self, total: Gradients, rows: TokenRows, lr: float) -> Arrays:
        """Apply summed gradients to the state; returns the lazy report values."""
        compiled = self._compile("apply", self._apply)
        state, report = compiled(self.state, total, rows, mx.array(lr))
        self._take(state)
        self._time("update", self.state.arrays())
        return report

    def update(
        self, objective: str, batch: StepBatch, key: mx.array, lr: float
    ) -> Arrays:
        """One update from one micro-batch; returns the lazy report values.

        Forward to AdamW is one compiled graph where the objective's gradient is, except
        in a timed run, which times its parts.
        """
        if self.engine.debug or not self._differentiated[objective].is_one_graph:
            total = self.micro_gradients(objective, batch, key)
            return self.apply(total, batch.rows, lr)

        def function(*arguments: object) -> tuple[TrainState, Arrays]:
            return self._whole_update(objective, *arguments)  # type: ignore[arg-type]

        compiled = self._compile(f"{objective} update", function)
        state, report = compiled(self.state, batch, key, mx.array(lr))
        self._take(state)
        return report

    def _take(self, state: TrainState) -> None:
        self.state = TrainState(*state)
        put_parameters(self._slots, self.state.parameters)

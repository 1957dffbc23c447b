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
from energyflow_mlx.model import EnergyFlow, flat_parameters, install_parameters
from energyflow_mlx.ops.adamw import Adamw, Rates, adamw, gradient_norm
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import (
    Differentiated,
    Objective,
    StepBatch,
)
from energyflow_mlx.training.optimizer import (
    Arrays,
    clip_scale,
    constants,
    decays,
    init_moments,
    stepped,
)
from energyflow_mlx.training.precision import (
    cast_parameters,
    init_loss_scale,
    next_loss_scale,
)
from energyflow_mlx.training.state import Gradients, TrainState
from energyflow_mlx.training.token_rows import (
    TokenRows,
    gather,
    gathered_tables,
    installed,
    is_only_looked_up,
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

    Attributes:
        state: Current parameters, moments, loss scale.
        traces: How often each compiled function was traced, by name; a test
            holds it to once per objective and shape.
    """

    model: EnergyFlow
    config: Config
    objectives: Sequence[Objective]
    engine: ReadbackEngine = field(default_factory=ReadbackEngine)
    state: TrainState = field(init=False)
    traces: dict[str, int] = field(default_factory=dict)
    _compiled: dict[str, Callable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over the model's parameters and prepare the moments."""
        parameters = flat_parameters(self.model)
        self.trainable = trainable_paths(parameters, self.config.trainer)
        self.gathered = gathered_tables(parameters, self.config) & self.trainable
        self._differentiated: Mapping[str, Differentiated] = {
            o.name: o.differentiate(self.model, self._installed, self.engine)
            for o in self.objectives
        }
        self._stepped = {
            o.name: under(self.trainable, o.parts) for o in self.objectives
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

        The state stays as it was where loss or gradient is not finite.
        """
        parameters, moments, loss_scale = state
        config = self.config.optimizer
        divide = 1.0 / (loss_scale.scale * total.count)
        norm = gradient_norm(list(total.gradients.values())) * divide
        finite = mx.isfinite(norm) & mx.isfinite(total.loss)
        rates = Rates(divide * clip_scale(norm, config.clip_norm), lr, finite)
        new_parameters, new_moments = dict(parameters), dict(moments)
        for path, gradient in total.gradients.items():
            old = Adamw(parameters[path], **moments[path])
            if path in self.gathered:
                only_looked_up = is_only_looked_up(path, self.config)
                new = step_rows(
                    old, gradient, rows, rates, config, only_occurring=only_looked_up
                )
            else:
                decay = config.weight_decay if decays(path, old.p) else 0.0
                new = adamw(old, gradient, rates, constants(config, decay))
            new_parameters[path], new_moments[path] = stepped(new)
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

        def function(state: TrainState, batch: StepBatch, key: mx.array) -> Gradients:
            return self._gradients(objective, state, batch, key)

        if self._differentiated[objective].is_one_graph:
            function = self._compile(f"{objective} gradients", function)
        # Of the state the gradients read no moments: they stay out of the graph.
        found = function(self.state._replace(moments={}), batch, key)
        install_parameters(self.model, self.state.parameters)
        return found

    def apply(self, total: Gradients, rows: TokenRows, lr: float) -> Arrays:
        """Apply summed gradients to the state; returns the lazy report values."""
        compiled = self._compile("apply", self._apply)
        state, report = compiled(self.state, total, rows, mx.array(lr))
        self._take(state)
        return report

    def update(
        self, objective: str, batch: StepBatch, key: mx.array, lr: float
    ) -> Arrays:
        """One update from one micro-batch; returns the lazy report values.

        Forward to AdamW is one compiled graph where the objective's gradient is.
        """
        if not self._differentiated[objective].is_one_graph:
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
        install_parameters(self.model, self.state.parameters)

"""One training update: gradients of micro-batches, clip, AdamW, all in one graph.

Parameters, moments and the loss scale are inputs and outputs of pure functions,
compiled once per objective and batch shape. Token tables with lazy rows enter the
gradient as the rows the update touches, so neither gradient nor moments of the
untouched rows are ever computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.model import EnergyFlow, flat_parameters, install_parameters
from energyflow_mlx.readback.engine import ReadbackEngine
from energyflow_mlx.training.objectives import (
    FLOW_OBJECTIVES,
    OBJECTIVES,
    Arrays,
    Controls,
    Gradients,
    Outcome,
    StepBatch,
    touched_parts,
    under,
)
from energyflow_mlx.training.optimizer import (
    Moments,
    Rows,
    adamw,
    adamw_rows,
    clip_scale,
    decays,
    global_norm,
    init_moments,
)
from energyflow_mlx.training.precision import (
    DTYPES,
    LossScale,
    cast_parameters,
    init_loss_scale,
    next_loss_scale,
)
from energyflow_mlx.training.staged import StagedFlow
from energyflow_mlx.training.trainable import (
    is_input_table,
    lazy_tables,
    trainable_paths,
)


class Update(NamedTuple):
    """The micro-batches of one update and the token rows they touch together."""

    batches: Sequence[StepBatch]
    rows: Rows


@dataclass
class TrainState:
    """Everything an update changes.

    Attributes:
        parameters: Every parameter of the model by path, float32.
        moments: AdamW moments of the trainable ones.
        loss_scale: Dynamic loss scale.
    """

    parameters: Arrays
    moments: dict[str, Moments]
    loss_scale: LossScale

    def arrays(self) -> Arrays:
        """Flat view for checkpoints: ``model.*``, ``optimizer.*``, ``scale.*``."""
        flat = {f"model.{path}": array for path, array in self.parameters.items()}
        for path, moments in self.moments.items():
            flat |= {f"optimizer.{path}.{k}": v for k, v in moments.items()}
        return flat | {
            "scale.scale": self.loss_scale.scale,
            "scale.good": self.loss_scale.good,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "TrainState":
        """Inverse of ``arrays``."""
        parameters: Arrays = {}
        moments: dict[str, Moments] = {}
        for name, array in arrays.items():
            group, path = name.split(".", 1)
            if group == "model":
                parameters[path] = array
            elif group == "optimizer":
                owner, part = path.rsplit(".", 1)
                moments.setdefault(owner, {})[part] = array
        scale = LossScale(arrays["scale.scale"], arrays["scale.good"])
        return cls(parameters, moments, scale)


@dataclass
class Stepper:
    """Runs updates of either objective on one train state.

    Args:
        model: The model; its parameters are installed after every update.
        config: The run's configuration.
        engine: Computes; an update only tells it what may start early.

    Attributes:
        state: Current parameters, moments, loss scale.
        traces: How often each compiled function was traced, by name; a test
            holds it to once per objective and shape.
    """

    model: EnergyFlow
    config: Config
    engine: ReadbackEngine = field(default_factory=ReadbackEngine)
    state: TrainState = field(init=False)
    traces: dict[str, int] = field(default_factory=dict)
    _compiled: dict[str, Callable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over the model's parameters and prepare the moments."""
        parameters = flat_parameters(self.model)
        lattice = self.config.lattice
        self._staged = {
            name: StagedFlow(self.model, self.config, ends, self.engine.start)
            for name, ends in FLOW_OBJECTIVES.items()
            if lattice is not None and lattice.adjoint.way == "stepwise"
        }
        self.trainable = trainable_paths(parameters, self.config)
        self.lazy = lazy_tables(parameters, self.config) & self.trainable
        self.state = TrainState(
            parameters=parameters,
            moments={p: init_moments(parameters[p]) for p in sorted(self.trainable)},
            loss_scale=init_loss_scale(self.config.precision),
        )

    def restore(self, state: TrainState) -> None:
        """Continue from a saved state."""
        self.state = state
        install_parameters(self.model, state.parameters)

    # -- pure functions ------------------------------------------------------

    def _stepped(self, objective: str) -> list[str]:
        """Paths of the parameters that an update of ``objective`` changes."""
        parts = touched_parts(objective, self.config.loss)
        return sorted(under(dict.fromkeys(self.trainable), parts))

    def _gather(self, parameters: Arrays, rows: Rows) -> Arrays:
        """Parameters with every lazy table replaced by the rows of the update."""
        gathered = {p: parameters[p][rows.index] for p in self.lazy}
        return {**parameters, **gathered}

    def _gradients(
        self,
        objective: str,
        parameters: Arrays,
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        controls: Controls,
    ) -> Gradients:
        """Gradients of one micro-batch's loss sum with respect to what it steps."""
        config = self.config
        gathered = self._gather(parameters, rows)
        stepped = {p: gathered[p] for p in self._stepped(objective)}
        dtype = DTYPES[config.precision.dtype]
        cast = batch._replace(mask=batch.mask.astype(dtype))

        def loss(stepped: Arrays) -> tuple[mx.array, Outcome]:
            full = cast_parameters({**gathered, **stepped}, config.precision)
            install_parameters(self.model, full)
            outcome = OBJECTIVES[objective](
                self.model, cast, rows, config.loss, controls
            )
            return outcome.loss * scale, outcome

        (_, outcome), gradients = mx.value_and_grad(loss)(stepped)
        return Gradients(gradients, outcome.loss, outcome.count, outcome.metrics)

    def _apply(
        self,
        state: tuple[Arrays, dict[str, Moments], LossScale],
        total: Gradients,
        rows: Rows,
        lr: mx.array,
    ) -> tuple[tuple[Arrays, dict[str, Moments], LossScale], Arrays]:
        """New parameters, moments and loss scale from summed gradients."""
        parameters, moments, loss_scale = state
        config = self.config.optimizer
        divide = 1.0 / (loss_scale.scale * total.count)
        gradients = {
            path: g.astype(mx.float32) * divide for path, g in total.gradients.items()
        }
        norm = global_norm(gradients)
        finite = mx.isfinite(norm)
        clip = clip_scale(norm, config.clip_norm)
        new_parameters, new_moments = dict(parameters), dict(moments)
        for path, gradient in gradients.items():
            old, moment = parameters[path], moments[path]
            if path in self.lazy:
                # A drawn negative moves its output row, never its input row.
                valid = rows.occurs if is_input_table(path, self.config) else None
                new, changed = adamw_rows(
                    old, gradient * clip, moment, rows.index, valid, lr, config
                )
            else:
                decay = config.weight_decay if decays(path, old) else 0.0
                new, changed = adamw(old, gradient * clip, moment, lr, decay, config)
            if self.config.precision.dtype == "float16":
                new = mx.where(finite, new, old)
                changed = {k: mx.where(finite, changed[k], moment[k]) for k in moment}
            new_parameters[path], new_moments[path] = new, changed
        scale = next_loss_scale(loss_scale, finite, self.config.precision)
        report = {name: m / total.count for name, m in total.metrics.items()}
        report["loss"] = total.loss / total.count
        report["grad_norm"] = norm
        return (new_parameters, new_moments, scale), report

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
        self, objective: str, batch: StepBatch, rows: Rows, controls: Controls
    ) -> Gradients:
        """Lazy gradients of one micro-batch."""
        if objective in self._staged:
            return self._staged_gradients(objective, batch, rows, controls)

        def function(
            parameters: Arrays,
            batch: StepBatch,
            rows: Rows,
            scale: mx.array,
            controls: Controls,
        ) -> Gradients:
            return self._gradients(objective, parameters, batch, rows, scale, controls)

        compiled = self._compile(f"{objective} gradients", function)
        scale = self.state.loss_scale.scale
        result = compiled(self.state.parameters, batch, rows, scale, controls)
        install_parameters(self.model, self.state.parameters)
        return result

    def _staged_gradients(
        self, objective: str, batch: StepBatch, rows: Rows, controls: Controls
    ) -> Gradients:
        """Those of a flow objective with checkpoints, every stage compiled alone."""
        dtype = DTYPES[self.config.precision.dtype]
        found = self._staged[objective].gradients(
            self._gather(self.state.parameters, rows),
            self._stepped(objective),
            batch._replace(mask=batch.mask.astype(dtype)),
            rows,
            self.state.loss_scale.scale,
            controls,
        )
        install_parameters(self.model, self.state.parameters)
        return found

    def apply(self, total: Gradients, rows: Rows, lr: float) -> Arrays:
        """Apply summed gradients to the state; returns the lazy report values."""
        state = (self.state.parameters, self.state.moments, self.state.loss_scale)
        compiled = self._compile("apply", self._apply)
        new, report = compiled(state, total, rows, mx.array(lr))
        self._take(new)
        return report

    def update(
        self,
        objective: str,
        batch: StepBatch,
        rows: Rows,
        lr: float,
        controls: Controls,
    ) -> Arrays:
        """One update from one micro-batch.

        Forward to AdamW is one compiled graph, except for flows with checkpoints.
        """
        if objective in self._staged:
            total = self.micro_gradients(objective, batch, rows, controls)
            return self.apply(total, rows, lr)

        def function(
            state: tuple[Arrays, dict[str, Moments], LossScale],
            batch: StepBatch,
            rows: Rows,
            lr: mx.array,
            controls: Controls,
        ) -> tuple[tuple[Arrays, dict[str, Moments], LossScale], Arrays]:
            total = self._gradients(
                objective, state[0], batch, rows, state[2].scale, controls
            )
            return self._apply(state, total, rows, lr)

        state = (self.state.parameters, self.state.moments, self.state.loss_scale)
        compiled = self._compile(f"{objective} update", function)
        new, report = compiled(state, batch, rows, mx.array(lr), controls)
        self._take(new)
        return report

    def _take(self, new: tuple[Arrays, dict[str, Moments], LossScale]) -> None:
        self.state = TrainState(*new)
        install_parameters(self.model, self.state.parameters)


def add_gradients(total: Gradients | None, new: Gradients) -> Gradients:
    """Sum of two micro-batches' gradients, losses, counts and metrics."""
    if total is None:
        return new
    return Gradients(
        {p: total.gradients[p] + g for p, g in new.gradients.items()},
        total.loss + new.loss,
        total.count + new.count,
        {name: total.metrics[name] + m for name, m in new.metrics.items()},
    )

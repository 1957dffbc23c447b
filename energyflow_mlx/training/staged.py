"""Gradients of a flow objective with little memory: front, steps, back, each alone.

front   batch -> energies at launch
steps   energies -> landed flows, ``lattice.staged``
back    landed flows -> loss

For ``lattice.adjoint.way=stepwise``. The chain rule between the three is written out
here, so that a step is computed again from its state in the backward pass and nothing
of its inside is kept.
"""

from collections.abc import Callable, Collection
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.lattice.staged import StagedSteps
from energyflow_mlx.lattice.state import FlowOptions, FlowState, land, launch
from energyflow_mlx.model import EnergyFlow, install_parameters
from energyflow_mlx.training.objectives import (
    Arrays,
    Controls,
    FlowObjective,
    Gradients,
    Outcome,
    StepBatch,
    flow_keys,
    under,
)
from energyflow_mlx.training.optimizer import Rows
from energyflow_mlx.training.precision import cast_parameters

_FLOW = "lattice.flow."


class StagedFlow:
    """Gradients of one flow objective.

    Args:
        model: Model with a lattice.
        config: The run's configuration.
        objective: Its two ends.
        compute: Starts to compute its arguments, without waiting for them.
    """

    def __init__(
        self,
        model: EnergyFlow,
        config: Config,
        objective: FlowObjective,
        compute: Callable[..., None],
    ) -> None:
        self._model = model
        self._config = config
        self._objective = objective
        self._steps = StagedSteps(
            model.lattice.flow,
            model.lattice.config,
            cast=self._cast,
            compile=config.trainer.compile,
            compute=compute,
        )
        self._functions: dict[str, Callable[..., Any]] = {}

    def gradients(
        self,
        parameters: Arrays,
        stepped: Collection[str],
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        controls: Controls,
    ) -> Gradients:
        """Gradients of the loss sum of one micro-batch, times ``scale``.

        Args:
            parameters: All of the model, token tables as gathered rows.
            stepped: Paths that want a gradient.
            batch: The micro-batch.
            rows: Token rows of the update.
            scale: Loss scale.
            controls: Key and schedules of the update.
        """
        front_key, lattice_key, end_key = flow_keys(controls.key)
        _, noise_key, collector_key = mx.random.split(lattice_key, 3)
        options = self._options(controls, noise_key)
        front, steps, back = self._parts(parameters)
        start = self._launch(self._call("front", front, batch, front_key))
        states = self._steps.forward(steps, start, options)
        # The image of the target is a goal, not a way for gradients.
        has_image = self._config.loss.surface > 0
        fixed = under(parameters, ("lattice.mapper",)) if has_image else {}
        ends = tuple(states[-1]), batch, rows, scale, (collector_key, end_key)
        outcome, back_gradients, cotangents = self._call("back", back, fixed, *ends)
        step_gradients, first = self._steps.backward(steps, states, cotangents, options)
        front_gradients = self._call(
            "front_vjp", front, batch, front_key, first["energy"]
        )
        total = _add(front_gradients, back_gradients)
        total |= {f"{_FLOW}{p}": g for p, g in step_gradients.items()}
        return Gradients({p: total[p] for p in stepped}, *outcome)

    def _parts(self, parameters: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        """Parameters of front, steps (by path inside the flow) and back."""
        steps = {
            path.removeprefix(_FLOW): a
            for path, a in parameters.items()
            if path.startswith(_FLOW)
        }
        front, back = self._objective.front, self._objective.back
        return under(parameters, front), steps, under(parameters, back)

    def _launch(self, energy: mx.array) -> FlowState:
        lattice = self._model.lattice.config
        size = (lattice.cube.height, lattice.cube.width)
        surface = energy[:, : lattice.surface_size]
        return launch(lattice, surface.reshape(-1, *size))

    def _options(self, controls: Controls, key: mx.array) -> FlowOptions:
        is_noisy = self._model.lattice.config.noise.sigma > 0
        return FlowOptions(
            scale=controls.displacement_scale,
            sigma=controls.noise_sigma,
            key=key if is_noisy else None,
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        """Run a stage, compiled once; the model's parameters are left as they were."""
        if name not in self._functions:
            function = getattr(self, f"_{name}")
            compiles = self._config.trainer.compile
            self._functions[name] = mx.compile(function) if compiles else function
        return self._functions[name](*arguments)

    def _cast(self, parameters: Arrays) -> Arrays:
        return cast_parameters(parameters, self._config.precision)

    def _front(self, parameters: Arrays, batch: StepBatch, key: mx.array) -> mx.array:
        """Energies of all flow slots at launch, ``[B, F]``."""
        model = self._model
        install_parameters(model, self._cast(parameters))
        surface = self._objective.surface(model, StepBatch(*batch), key)
        return launch(model.lattice.config, surface).energy

    def _front_vjp(
        self, parameters: Arrays, batch: StepBatch, key: mx.array, cotangent: mx.array
    ) -> Arrays:
        def energy(*arrays: mx.array) -> list[mx.array]:
            own = dict(zip(parameters, arrays, strict=True))
            return [self._front(own, batch, key)]

        _, found = mx.vjp(energy, list(parameters.values()), [cotangent])
        return dict(zip(parameters, found, strict=True))

    def _back(
        self,
        parameters: Arrays,
        fixed: Arrays,
        state: tuple,
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        keys: tuple[mx.array, mx.array],
    ) -> tuple[Outcome, Arrays, Arrays]:
        """Outcome, gradients of the parameters, cotangents of position and energy."""
        flows = FlowState(*state)
        smooth = {"position": flows.position, "energy": flows.energy}

        def loss(parameters: Arrays, smooth: Arrays) -> tuple[mx.array, Outcome]:
            landing = flows._replace(**smooth)
            return self._loss(parameters | fixed, landing, batch, rows, scale, keys)

        graph = mx.value_and_grad(loss, argnums=(0, 1))
        (_, outcome), (gradients, cotangents) = graph(parameters, smooth)
        return outcome, gradients, cotangents

    def _loss(
        self,
        parameters: Arrays,
        flows: FlowState,
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        keys: tuple[mx.array, mx.array],
    ) -> tuple[mx.array, Outcome]:
        """Scaled loss of flows after their last step."""
        model = self._model
        install_parameters(model, self._cast(parameters))
        landed = land(model.lattice.config, flows)
        output = model.lattice.finish(landed.energy, landed, keys[0])
        outcome = self._objective.outcome(
            model,
            StepBatch(*batch),
            Rows(*rows),
            self._config.loss,
            keys[1],
            output,
        )
        return outcome.loss * scale, outcome


def _add(one: Arrays, two: Arrays) -> Arrays:
    """Sum of gradients; shared blocks have one from either end."""
    both = {path: one[path] + two[path] for path in one.keys() & two.keys()}
    return one | two | both

"""Gradients of a flow objective: front, the lattice's steps, back, each compiled alone.

front   batch -> energies at launch
steps   energies -> landed flows, ``lattice.staged``
back    landed flows -> loss

The chain rule between the three is written out here, because one graph of all of them
would be unrolled and compiled as a whole, which costs minutes. Where nothing is
compiled one graph serves; no step is computed twice then unless
``lattice.checkpoint_steps`` asks for it.
"""

from collections.abc import Callable, Collection
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config
from energyflow_mlx.lattice.propagate import FlowOptions
from energyflow_mlx.lattice.simulate import FlowState, land, launch
from energyflow_mlx.lattice.staged import StagedSteps
from energyflow_mlx.model import EnergyFlow, install_parameters
from energyflow_mlx.training.objectives import (
    Arrays,
    Controls,
    FlowObjective,
    Gradients,
    Outcome,
    StepBatch,
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
        self._keeps_steps = not (
            config.trainer.compile or model.lattice.config.checkpoint_steps
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
        keys = mx.random.split(controls.key, 4)
        options = self._options(controls, keys[1])
        way = self._in_one if self._keeps_steps else self._in_stages
        ends = batch, rows, scale, keys
        (loss, count, metrics), total = way(parameters, options, *ends)
        return Gradients({p: total[p] for p in stepped}, loss, count, metrics)

    def _in_stages(
        self,
        parameters: Arrays,
        options: FlowOptions,
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        keys: mx.array,
    ) -> tuple[Outcome, Arrays]:
        """Outcome and gradients, every stage and step compiled alone."""
        front, steps, back = self._parts(parameters)
        start = self._launch(self._call("front", front, batch, keys[0]))
        states = self._steps.forward(steps, start, options)
        # The image of the target is a goal, not a way for gradients.
        has_image = self._config.loss.surface > 0
        fixed = under(parameters, ("lattice.mapper",)) if has_image else {}
        ends = tuple(states[-1]), batch, rows, scale, (keys[2], keys[3])
        outcome, back_gradients, cotangents = self._call("back", back, fixed, *ends)
        step_gradients, first = self._steps.backward(steps, states, cotangents, options)
        front_gradients = self._call(
            "front_vjp", front, batch, keys[0], first["energy"]
        )
        total = _add(front_gradients, back_gradients)
        return outcome, total | {f"{_FLOW}{p}": g for p, g in step_gradients.items()}

    def _in_one(
        self,
        parameters: Arrays,
        options: FlowOptions,
        batch: StepBatch,
        rows: Rows,
        scale: mx.array,
        keys: mx.array,
    ) -> tuple[Outcome, Arrays]:
        """Outcome and gradients of one graph that keeps the inside of every step."""
        has_image = self._config.loss.surface > 0
        fixed = under(parameters, ("lattice.mapper",)) if has_image else {}

        def loss(own: Arrays) -> tuple[mx.array, Outcome]:
            front, steps, back = self._parts(own)
            start = self._launch(self._front(front, batch, keys[0]))
            *_, flows = self._steps.unroll(steps, start, options)
            goal = {path: mx.stop_gradient(a) for path, a in fixed.items()}
            ends = batch, rows, scale, (keys[2], keys[3])
            return self._loss(back | goal, flows, *ends)

        touched = *self._objective.front, _FLOW.removesuffix("."), *self._objective.back
        own = under(parameters, touched)
        (_, outcome), gradients = mx.value_and_grad(loss)(own)
        return outcome, gradients

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
        surface = energy[:, : lattice.surface_size]
        return launch(lattice, surface.reshape(-1, lattice.height, lattice.width))

    def _options(self, controls: Controls, key: mx.array) -> FlowOptions:
        is_noisy = self._model.lattice.config.exploration_noise > 0
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

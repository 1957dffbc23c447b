"""Backpropagation through the steps with little memory, one step at a time.

The loop over the steps is differentiated by hand: the forward pass keeps the state
before every step, the backward pass goes through the steps in reverse and recomputes
each from its state. This is gradient checkpointing over steps (Chen et al., "Training
Deep Nets with Sublinear Memory Cost", 2016): memory grows by a state, not by the
inside of a step. Both passes run outside ``mx.grad``, where one compiled step serves
all.

Every step is handed to the device as soon as it is built. Nothing waits for it: but
what a step needs inside is then freed before the next one starts, and on a GPU the
building of graphs goes on beside the work.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.dynamics import FlowStep, advance_flows, phase
from energyflow_mlx.lattice.motion import StepControls
from energyflow_mlx.lattice.solve import draw_noise
from energyflow_mlx.lattice.state import FlowOptions, FlowState

Arrays = dict[str, mx.array]

# Fields of the state that later steps and the readout differentiate. All others are
# masks, counters and measurements.
_SMOOTH = ("position", "energy", "memory")


def smooth_arrays(state: FlowState) -> Arrays:
    """Arrays of a state that have a gradient, by name."""
    found = {name: getattr(state, name) for name in _SMOOTH}
    return found | {f"hidden.{i}": h for i, h in enumerate(state.hidden)}


def _with_arrays(state: FlowState, arrays: Arrays) -> FlowState:
    hidden = tuple(arrays[f"hidden.{i}"] for i in range(len(state.hidden)))
    fields = {name: arrays[name] for name in _SMOOTH}
    return state._replace(hidden=hidden, **fields)


class StagedSteps:
    """All steps of a lattice, forward and backward.

    Args:
        flow: The step; its weights are replaced by those of each call.
        config: Of the lattice.
        cast: Turns stored parameters into those to compute with.
        compile: Compile the step.
        compute: Starts to compute its arguments, without waiting for them.
    """

    def __init__(
        self,
        flow: FlowStep,
        config: LatticeConfig,
        *,
        cast: Callable[[Arrays], Arrays],
        compile: bool,
        compute: Callable[..., None],
    ) -> None:
        self._flow = flow
        self._config = config
        self._cast = cast
        self._compiles = compile
        self._compute = compute
        self._functions: dict[tuple, Callable[..., Any]] = {}

    def forward(
        self, parameters: Arrays, start: FlowState, options: FlowOptions
    ) -> list[FlowState]:
        """States before every step and after the last, ``T + 1`` of them.

        Their computation starts as they are made.

        Args:
            parameters: Of the step, by path.
            start: Of ``launch``.
            options: Noise and scale.
        """
        states = [start]
        for index, arguments in self._arguments(start, options):
            step = self._function("forward", index)
            state = step(parameters, tuple(states[-1]), *arguments)
            self._compute(state)
            states.append(FlowState(*state))
        return states

    def backward(
        self,
        parameters: Arrays,
        states: list[FlowState],
        cotangents: Arrays,
        options: FlowOptions,
    ) -> tuple[Arrays, Arrays]:
        """Gradients with respect to the parameters and to the first state.

        Args:
            parameters: As in ``forward``.
            states: What ``forward`` gave.
            cotangents: Of the last state's arrays, by name; missing ones are 0.
            options: As in ``forward``.

        Returns:
            Gradients by path and cotangents of the first state by name.
        """
        gradients = {path: mx.zeros_like(a) for path, a in parameters.items()}
        for index, arguments in reversed(self._arguments(states[0], options)):
            step = self._function("backward", index)
            state = tuple(states[index])
            gradients, cotangents = step(
                parameters, state, cotangents, gradients, *arguments
            )
            self._compute(gradients, cotangents)
        return gradients, cotangents

    def _arguments(
        self, start: FlowState, options: FlowOptions
    ) -> list[tuple[int, tuple]]:
        scale = mx.array(options.scale)
        noises = draw_noise(self._config, options, start.position.shape)
        paces = [phase(self._config, index).pace for index in range(len(noises))]
        controls = zip(paces, noises, strict=True)
        return [
            (index, (tuple(StepControls(pace, scale, noise)),))
            for index, (pace, noise) in enumerate(controls)
        ]

    def _function(self, direction: str, index: int) -> Callable[..., Any]:
        now = phase(self._config, index)
        kind = (direction, now.spawns, now.cuts)
        if kind not in self._functions:
            function = self._advance if direction == "forward" else self._retreat
            bound = partial(function, now.spawns, now.cuts)
            self._functions[kind] = mx.compile(bound) if self._compiles else bound
        return self._functions[kind]

    def _advance(
        self, spawns: bool, cuts: bool, parameters: Arrays, state: tuple, *rest: Any
    ) -> tuple:
        kept = self._flow.parameters()
        self._flow.update(tree_unflatten(list(self._cast(parameters).items())))
        after = advance_flows(self._flow, spawns, cuts, state, *rest)
        self._flow.update(kept)
        return after

    def _retreat(
        self,
        spawns: bool,
        cuts: bool,
        parameters: Arrays,
        state: tuple,
        cotangents: Arrays,
        gradients: Arrays,
        *rest: Any,
    ) -> tuple[Arrays, Arrays]:
        """Recompute one step from its state and take its vector-Jacobian product."""
        before = FlowState(*state)
        smooth = smooth_arrays(before)
        paths, names, wanted = list(parameters), list(smooth), list(cotangents)

        def outputs(*arrays: mx.array) -> list[mx.array]:
            own = dict(zip(paths, arrays, strict=False))
            inner = dict(zip(names, arrays[len(paths) :], strict=True))
            start = tuple(_with_arrays(before, inner))
            after = FlowState(*self._advance(spawns, cuts, own, start, *rest))
            found = smooth_arrays(after)
            return [found[name] for name in wanted]

        inputs = [*parameters.values(), *smooth.values()]
        _, found = mx.vjp(outputs, inputs, [cotangents[name] for name in wanted])
        new = dict(zip(paths, found, strict=False))
        total = {path: gradients[path] + new[path] for path in paths}
        return total, dict(zip(names, found[len(paths) :], strict=True))

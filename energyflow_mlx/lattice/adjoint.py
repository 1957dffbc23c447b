"""Gradients through the lattice: which way the loop over the steps is differentiated.

A loss of a lattice has two ends with the flows between them:

    before   parameters, inputs -> surface that launches, ``[B, H, W]``
    flows    surface -> landed flows, the loop of ``solve``
    after    parameters, inputs, what the lattice gave -> loss

``graph`` differentiates all of it as one graph: fastest, and a compiled update can be
built around it. ``stepwise`` goes through the steps by hand: the forward pass keeps the
state before every step, the backward pass goes through the steps in reverse and
recomputes each from its state. This is gradient checkpointing over steps (Chen et al.,
"Training Deep Nets with Sublinear Memory Cost", 2016): memory grows by a state, not by
the inside of a step.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_unflatten

from energyflow_mlx.lattice.dynamics import advance_flows, phase
from energyflow_mlx.lattice.lattice import EnergyLattice, LatticeOutput
from energyflow_mlx.lattice.solve import draw_noise
from energyflow_mlx.lattice.state import FlowOptions, FlowState, land, launch

Arrays = dict[str, mx.array]
Loss = tuple[mx.array, Any]

# Fields of the state that later steps and the readout differentiate. All others are
# masks, counters and measurements.
_SMOOTH = ("position", "energy", "memory", "face", "weight")

# Those of them that the readout differentiates.
_READ = ("position", "energy", "weight")


class Ends(NamedTuple):
    """The two ends of a loss, and the parameters that each uses.

    Attributes:
        before: Inputs to the surface that launches, ``[B, H, W]``.
        after: Inputs and what the lattice gave, to the loss and anything to report.
        before_parts: Prefixes of the parameters that ``before`` learns.
        after_parts: Prefixes of those that ``after`` and the collector learn.
    """

    before: Callable[[Any], mx.array]
    after: Callable[[Any, LatticeOutput], Loss]
    before_parts: tuple[str, ...]
    after_parts: tuple[str, ...]


class Execution(NamedTuple):
    """How the pieces are run.

    Attributes:
        installed: Context in which the model has parameters, given by path, for these
            inputs.
        cast: Turns stored parameters into those to compute with.
        compiles: Compile each stage of ``stepwise``.
        start: Starts to compute its arguments, without waiting for them.
        prefix: Path of the lattice in the model.
    """

    installed: Callable[[Arrays, Any], AbstractContextManager[None]]
    cast: Callable[[Arrays], Arrays]
    compiles: bool
    start: Callable[..., None]
    prefix: str = "lattice."


Gradient = Callable[[Arrays, Arrays, Any, FlowOptions], tuple[Loss, Arrays]]


def value_and_grad(
    ends: Ends, lattice: EnergyLattice, execution: Execution, *, way: str
) -> Gradient:
    """Function that computes a loss through the lattice, and its gradients.

    Args:
        ends: What comes before and after the flows.
        lattice: The lattice of the model.
        execution: How the pieces are run.
        way: ``graph`` or ``stepwise``; both give the same gradients.

    Returns:
        ``(stepped, fixed, inputs, options) -> ((loss, report), gradients)``, with
        gradients for the parameters in ``stepped``; ``fixed`` are all others.
    """
    if way == "graph":
        return partial(_in_one_graph, ends, lattice, execution)
    return StepwiseAdjoint(ends, lattice, execution)


def loss_of(
    ends: Ends, lattice: EnergyLattice, inputs: Any, options: FlowOptions
) -> Loss:
    """The loss itself, with the parameters that the model has."""
    return ends.after(inputs, output_of(ends, lattice, inputs, options))


def output_of(
    ends: Ends, lattice: EnergyLattice, inputs: Any, options: FlowOptions
) -> LatticeOutput:
    """What the lattice gives, with the parameters that the model has."""
    is_noisy = lattice.config.noise.sigma > 0
    return lattice.from_surface(
        ends.before(inputs),
        key=options.key,
        displacement_scale=options.scale,
        noise_sigma=options.sigma if is_noisy else 0.0,
    )


def _in_one_graph(
    ends: Ends,
    lattice: EnergyLattice,
    execution: Execution,
    stepped: Arrays,
    fixed: Arrays,
    inputs: Any,
    options: FlowOptions,
) -> tuple[Loss, Arrays]:
    def loss(stepped: Arrays) -> Loss:
        with execution.installed({**fixed, **stepped}, inputs):
            return loss_of(ends, lattice, inputs, options)

    found: tuple[Loss, Arrays] = mx.value_and_grad(loss)(stepped)
    return found


class StepwiseAdjoint:
    """Gradients with little memory: before, steps, after, each differentiated alone.

    The chain rule between the three is written out here. Every stage is compiled once,
    outside ``mx.grad``, and one compiled step serves all steps.
    """

    def __init__(
        self, ends: Ends, lattice: EnergyLattice, execution: Execution
    ) -> None:
        self._ends = ends
        self._lattice = lattice
        self._execution = execution
        self._steps = Steps(lattice, execution)
        self._functions: dict[str, Callable[..., Any]] = {}

    def __call__(
        self, stepped: Arrays, fixed: Arrays, inputs: Any, options: FlowOptions
    ) -> tuple[Loss, Arrays]:
        """Loss and gradients, as ``value_and_grad`` says."""
        everything = {**fixed, **stepped}
        own, first = _split(stepped, self._ends.before_parts)
        before = (own, {**fixed, **first}, inputs)
        own, last = _split(stepped, self._ends.after_parts)
        after = (own, {**fixed, **last})
        _, noise_key, collector_key = mx.random.split(options.key, 3)
        is_noisy = self._lattice.config.noise.sigma > 0
        moving = options._replace(key=noise_key if is_noisy else None)
        steps = self._flow_parameters(everything)

        start = self._launch(self._call("energy", *before))
        states = self._steps.forward(steps, start, moving)
        loss, last_gradients, cotangents = self._call(
            "after", *after, inputs, tuple(states[-1]), collector_key
        )
        step_gradients, cotangents = self._steps.backward(
            steps, states, cotangents, moving
        )
        first_gradients = self._call("energy_vjp", *before, cotangents["energy"])
        total = _add(first_gradients, last_gradients)
        prefix = f"{self._execution.prefix}flow."
        total |= {f"{prefix}{path}": g for path, g in step_gradients.items()}
        return loss, {path: total[path] for path in stepped}

    def _flow_parameters(self, parameters: Arrays) -> Arrays:
        """Those of the step, by their path inside it."""
        prefix = f"{self._execution.prefix}flow."
        return {
            path.removeprefix(prefix): a
            for path, a in parameters.items()
            if path.startswith(prefix)
        }

    def _launch(self, energy: mx.array) -> FlowState:
        """Flows with these energies; recomputed outside the stage that made them."""
        config = self._lattice.config
        surface = energy[:, : config.surface_size]
        shape = (-1, config.cube.height, config.cube.width)
        return launch(config, surface.reshape(shape))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Run a stage, compiled once."""
        if name not in self._functions:
            function = getattr(self, f"_{name}")
            compiles = self._execution.compiles
            self._functions[name] = mx.compile(function) if compiles else function
        return self._functions[name](*arguments)

    def _energy(self, own: Arrays, others: Arrays, inputs: Any) -> mx.array:
        """Energies of all flow slots at launch, ``[B, F]``."""
        with self._execution.installed({**others, **own}, inputs):
            return launch(self._lattice.config, self._ends.before(inputs)).energy

    def _energy_vjp(
        self, own: Arrays, others: Arrays, inputs: Any, cotangent: mx.array
    ) -> Arrays:
        def energy(*arrays: mx.array) -> list[mx.array]:
            named = dict(zip(own, arrays, strict=True))
            return [self._energy(named, others, inputs)]

        _, found = mx.vjp(energy, list(own.values()), [cotangent])
        return dict(zip(own, found, strict=True))

    def _after(
        self, own: Arrays, others: Arrays, inputs: Any, state: tuple, key: mx.array
    ) -> tuple[Loss, Arrays, Arrays]:
        """Loss, gradients of parameters, cotangents of what the readout sees."""
        flows = FlowState(*state)
        smooth = {name: getattr(flows, name) for name in _READ}

        def loss(own: Arrays, smooth: Arrays) -> Loss:
            landed = land(self._lattice.config, flows._replace(**smooth))
            with self._execution.installed({**others, **own}, inputs):
                output = self._lattice.finish(landed.energy, landed, key)
                return self._ends.after(inputs, output)

        graph = mx.value_and_grad(loss, argnums=(0, 1))
        found, (gradients, cotangents) = graph(own, smooth)
        return found, gradients, cotangents


class Steps:
    """All steps of a lattice, forward and backward, one at a time.

    Every step is handed to the device as soon as it is built. Nothing waits for it: but
    what a step needs inside is then freed before the next one starts, and on a GPU the
    building of graphs goes on beside the work.
    """

    def __init__(self, lattice: EnergyLattice, execution: Execution) -> None:
        self._flow = lattice.flow
        self._config = lattice.config
        self._execution = execution
        self._functions: dict[tuple, Callable[..., Any]] = {}

    def forward(
        self, parameters: Arrays, start: FlowState, options: FlowOptions
    ) -> list[FlowState]:
        """States before every step and after the last, ``T + 1`` of them.

        Their computation starts as they are made.

        Args:
            parameters: Parameters of the step, by path.
            start: Launched flows.
            options: Noise and scale.
        """
        states = [start]
        for index, controls in self._controls(start, options):
            step = self._function("forward", index)
            state = step(parameters, tuple(states[-1]), controls)
            self._execution.start(state)
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
            cotangents: Cotangents of the last state, by name; missing ones are 0.
            options: As in ``forward``.

        Returns:
            Gradients by path and cotangents of the first state by name.
        """
        gradients = {path: mx.zeros_like(a) for path, a in parameters.items()}
        for index, controls in reversed(self._controls(states[0], options)):
            step = self._function("backward", index)
            state = tuple(states[index])
            gradients, cotangents = step(
                parameters, state, cotangents, gradients, controls
            )
            self._execution.start(gradients, cotangents)
        return gradients, cotangents

    def _controls(
        self, start: FlowState, options: FlowOptions
    ) -> list[tuple[int, tuple]]:
        """Number of every step and its ``StepControls``, as a plain tuple."""
        scale = mx.array(options.scale)
        noises = draw_noise(self._config, options, start.position.shape)
        return [
            (index, (phase(self._config, index).pace, scale, noise))
            for index, noise in enumerate(noises)
        ]

    def _function(self, direction: str, index: int) -> Callable[..., Any]:
        now = phase(self._config, index)
        kind = (direction, now.spawns, now.cuts)
        if kind not in self._functions:
            function = self._advance if direction == "forward" else self._retreat
            bound = partial(function, (now.spawns, now.cuts))
            compiles = self._execution.compiles
            self._functions[kind] = mx.compile(bound) if compiles else bound
        return self._functions[kind]

    def _advance(
        self, kind: tuple[bool, bool], parameters: Arrays, state: tuple, controls: tuple
    ) -> tuple:
        kept = self._flow.parameters()
        cast = self._execution.cast(parameters)
        self._flow.update(tree_unflatten(list(cast.items())))
        after = advance_flows(self._flow, *kind, state, controls)
        self._flow.update(kept)
        return after

    def _retreat(
        self,
        kind: tuple[bool, bool],
        parameters: Arrays,
        state: tuple,
        cotangents: Arrays,
        gradients: Arrays,
        controls: tuple,
    ) -> tuple[Arrays, Arrays]:
        """Recompute one step from its state and take its vector-Jacobian product."""
        before = FlowState(*state)
        smooth = smooth_arrays(before)
        paths, names, wanted = list(parameters), list(smooth), list(cotangents)

        def outputs(*arrays: mx.array) -> list[mx.array]:
            own = dict(zip(paths, arrays, strict=False))
            inner = dict(zip(names, arrays[len(paths) :], strict=True))
            start = tuple(_with_arrays(before, inner))
            after = FlowState(*self._advance(kind, own, start, controls))
            found = smooth_arrays(after)
            return [found[name] for name in wanted]

        inputs = [*parameters.values(), *smooth.values()]
        _, found = mx.vjp(outputs, inputs, [cotangents[name] for name in wanted])
        new = dict(zip(paths, found, strict=False))
        total = {path: gradients[path] + new[path] for path in paths}
        return total, dict(zip(names, found[len(paths) :], strict=True))


def smooth_arrays(state: FlowState) -> Arrays:
    """Arrays of a state that have a gradient, by name."""
    found = {name: getattr(state, name) for name in _SMOOTH}
    return found | {f"hidden.{i}": h for i, h in enumerate(state.hidden)}


def _with_arrays(state: FlowState, arrays: Arrays) -> FlowState:
    hidden = tuple(arrays[f"hidden.{i}"] for i in range(len(state.hidden)))
    fields = {name: arrays[name] for name in _SMOOTH}
    return state._replace(hidden=hidden, **fields)


def _split(parameters: Arrays, parts: Collection[str]) -> tuple[Arrays, Arrays]:
    """Parameters under one of the prefixes, and the others."""
    starts = tuple(f"{part}." for part in parts)
    own = {path: a for path, a in parameters.items() if path.startswith(starts)}
    return own, {path: a for path, a in parameters.items() if path not in own}


def _add(one: Arrays, two: Arrays) -> Arrays:
    """Sum of gradients; shared blocks have one from either end."""
    both = {path: one[path] + two[path] for path in one.keys() & two.keys()}
    return one | two | both

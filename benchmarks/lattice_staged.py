"""Forward and backward of a lattice as the trainer takes them.

Compiled, or with ``checkpoint_steps``: stage by stage. Otherwise in one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.propagate import FlowOptions
from energyflow_mlx.lattice.simulate import FlowState, land, launch
from energyflow_mlx.lattice.staged import StagedSteps

Arrays = dict[str, mx.array]


class Staged:
    """The passes of one lattice in evaluation.

    Args:
        lattice: The lattice.
        compile: Compile the two ends and the step, each alone.
    """

    def __init__(self, lattice: EnergyLattice, *, compile: bool) -> None:
        self._lattice = lattice
        self._keeps_steps = not (compile or lattice.config.checkpoint_steps)
        wrap: Any = mx.compile if compile else lambda f: f
        self._steps = StagedSteps(
            lattice.flow,
            lattice.config,
            cast=lambda a: a,
            compile=compile,
            compute=mx.async_eval,
        )
        # Tracing leaves placeholders in the modules, so nothing is read from them.
        self._own = {
            name: dict(tree_flatten(lattice[name].trainable_parameters()))
            for name in ("mapper", "flow", "collector")
        }
        self._options = FlowOptions(lattice.config.displacement_scale_min)
        self._front = wrap(self._map)
        self._back = wrap(self._collect)
        self._back_vjp = wrap(mx.value_and_grad(self._loss, argnums=(0, 1)))
        self._front_vjp = wrap(self._unmap)

    def modes(self) -> dict[str, Callable[[mx.array], Any]]:
        """Vectors ``[B, E]``, and mean square with gradients by path."""
        return {"forward": self.forward, "forward+backward": self.both}

    def forward(self, v: mx.array) -> mx.array:
        """Output vectors."""
        own = self._own
        states = self._travel(own, v)
        vector: mx.array = self._back(own["collector"], tuple(states[-1]))
        return vector

    def both(self, v: mx.array) -> tuple[mx.array, dict]:
        """Mean square of the output vectors and its gradients, as a tree."""
        own = self._own
        if self._keeps_steps:
            loss, gradients = self._in_one(own, v)
            return loss, _as_trees(gradients)
        states = self._travel(own, v)
        smooth = {"position": states[-1].position, "energy": states[-1].energy}
        loss, (collector, cotangents) = self._back_vjp(
            own["collector"], smooth, tuple(states[-1])
        )
        flow, first = self._steps.backward(
            own["flow"], states, cotangents, self._options
        )
        mapper = self._front_vjp(own["mapper"], v, first["energy"])
        found = {"mapper": mapper, "flow": flow, "collector": collector}
        return loss, _as_trees(found)

    def _in_one(
        self, own: dict[str, Arrays], v: mx.array
    ) -> tuple[mx.array, dict[str, Arrays]]:
        def loss(own: dict[str, Arrays]) -> mx.array:
            start = launch(self._lattice.config, self._front(own["mapper"], v))
            *_, flows = self._steps.unroll(own["flow"], start, self._options)
            state = tuple(flows)
            return (self._collect(own["collector"], state) ** 2).mean()

        return mx.value_and_grad(loss)(own)

    def _travel(self, own: dict[str, Arrays], v: mx.array) -> list[FlowState]:
        start = launch(self._lattice.config, self._front(own["mapper"], v))
        return self._steps.forward(own["flow"], start, self._options)

    def _install(self, name: str, arrays: Arrays) -> Any:
        part = self._lattice[name]
        part.update(tree_unflatten(list(arrays.items())))
        return part

    def _map(self, own: Arrays, v: mx.array) -> mx.array:
        surface: mx.array = self._install("mapper", own)(v)
        return surface

    def _unmap(self, own: Arrays, v: mx.array, cotangent: mx.array) -> Arrays:
        def energy(*arrays: mx.array) -> list[mx.array]:
            surface = self._map(dict(zip(own, arrays, strict=True)), v)
            return [launch(self._lattice.config, surface).energy]

        _, found = mx.vjp(energy, list(own.values()), [cotangent])
        return dict(zip(own, found, strict=True))

    def _collect(self, own: Arrays, state: tuple) -> mx.array:
        self._install("collector", own)
        landed = land(self._lattice.config, FlowState(*state))
        return self._lattice.finish(landed.energy, landed, None).vector

    def _loss(self, own: Arrays, smooth: Arrays, state: tuple) -> mx.array:
        flows = FlowState(*state)._replace(**smooth)
        return (self._collect(own, tuple(flows)) ** 2).mean()


def _as_trees(gradients: dict[str, Arrays]) -> dict[str, Any]:
    return {n: tree_unflatten(list(g.items())) for n, g in gradients.items()}

"""Flows on their way: step after step until every one has landed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.convergence import Progress, has_converged
from energyflow_mlx.lattice.dynamics import (
    FlowState,
    FlowStep,
    Merged,
    Phase,
    land,
    phase,
)


class FlowOptions(NamedTuple):
    """What a run of the lattice may vary from call to call.

    Attributes:
        scale: Factor on the displacement head's output.
        sigma: Standard deviation of the exploration noise.
        key: Random key of the noise; None = no noise.
        read: Evaluates a boolean array, for early stopping; None = never stop early.
    """

    scale: float | mx.array = 1.0
    sigma: float | mx.array = 0.0
    key: mx.array | None = None
    read: Callable[[mx.array], bool] | None = None


Advance = Callable[..., tuple]


class StepRunner:
    """Takes steps of a lattice, compiled where nothing is being differentiated.

    Compiling the unrolled loop as a whole would cost minutes; one step costs seconds
    and serves all of them. Inside ``mx.grad`` MLX does not compile, and the step then
    runs as it is.
    """

    def __init__(self, flow: FlowStep, config: LatticeConfig) -> None:
        """Prepare the steps of ``flow``; its weights are read at every call."""
        self._flow = flow
        self._config = config
        self._compiled: dict[tuple[bool, bool], Advance] = {}

    def __call__(
        self,
        state: FlowState,
        index: int,
        *,
        scale: float | mx.array,
        noise: mx.array | None,
        merged: Merged | None = None,
    ) -> FlowState:
        """Take step ``index``; arguments as in ``FlowStep``."""
        now = phase(self._config, index)
        kind = (now.spawns, now.cuts)
        if kind not in self._compiled:
            step = partial(advance_flows, self._flow, *kind)
            self._compiled[kind] = mx.compile(step, inputs=self._flow.state)
        advance: Advance = self._compiled[kind]
        if self._config.checkpoint_steps:
            advance = nn.utils.checkpoint(self._flow, advance)
        rest = now.pace, mx.array(scale), noise, merged
        return FlowState(*advance(tuple(state), *rest))

    def merged(self) -> Merged:
        """Weights merged for all steps of a run."""
        return self._flow.merged()


def advance_flows(
    step: FlowStep,
    spawns: bool,
    cuts: bool,
    state: tuple,
    pace: mx.array,
    scale: mx.array,
    noise: mx.array | None,
    merged: Merged | None = None,
) -> tuple:
    """Take one step with plain tuples, as MLX's transformations want them."""
    now = Phase(pace, spawns, cuts)
    after = step(FlowState(*state), now, scale=scale, noise=noise, merged=merged)
    return tuple(after)


def draw_noise(
    config: LatticeConfig, options: FlowOptions, shape: tuple[int, ...]
) -> list[mx.array | None]:
    """Random moves ``[B, F, 3]`` of every step; None without a key."""
    if options.key is None:
        return [None] * config.total_steps
    keys = mx.random.split(options.key, config.total_steps)
    return [options.sigma * mx.random.normal(shape, key=key) for key in keys]


def propagate(
    steps: StepRunner, config: LatticeConfig, state: FlowState, options: FlowOptions
) -> Iterator[FlowState]:
    """Yield the state after every step, then the state after landing."""
    progress = Progress.start()
    stops_early = options.read is not None and config.convergence_threshold > 0
    merged = steps.merged()
    for index, noise in enumerate(draw_noise(config, options, state.position.shape)):
        state = steps(state, index, scale=options.scale, noise=noise, merged=merged)
        yield state
        if stops_early:
            progress, stop = has_converged(
                config, progress, state.alive, state.exists, index + 1
            )
            is_due = (index + 1) % config.convergence_every == 0
            if is_due and options.read(stop):  # type: ignore[misc]
                break
    yield land(config, state)

"""The loop over the steps: flows travel until every one has landed."""

from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.dynamics import (
    FlowStep,
    advance_flows,
    phase,
)
from energyflow_mlx.lattice.motion import StepControls
from energyflow_mlx.lattice.state import FlowOptions, FlowState, land
from energyflow_mlx.ops.flow_carry import CarryWeights


class StepRunner:
    """Takes steps of a lattice, compiled where nothing is being differentiated.

    Compiling the unrolled loop as a whole would cost minutes; one step costs seconds
    and serves all of them. Inside ``mx.grad`` MLX does not compile, and the step then
    runs as it is.
    """

    def __init__(self, step: FlowStep, config: LatticeConfig) -> None:
        """Prepare to take ``step``; its weights are read at every call."""
        self._step = step
        self._config = config
        self._compiled: dict[tuple[bool, bool], Callable[..., tuple]] = {}

    def __call__(
        self,
        state: FlowState,
        index: int,
        *,
        scale: float | mx.array,
        noise: mx.array | None,
        fused: CarryWeights | None = None,
    ) -> FlowState:
        """Take step ``index``; the other arguments are those of ``FlowStep``."""
        now = phase(self._config, index)
        kind = (now.spawns, now.cuts)
        if kind not in self._compiled:
            advance = partial(advance_flows, self._step, *kind)
            self._compiled[kind] = mx.compile(advance, inputs=self._step.state)
        controls = StepControls(now.pace, mx.array(scale), noise)
        after = self._compiled[kind](tuple(state), tuple(controls), fused)
        return FlowState(*after)

    def fused(self) -> CarryWeights:
        """Fused weights, computed once for all steps."""
        return self._step.fused()


def draw_noise(
    config: LatticeConfig, options: FlowOptions, shape: tuple[int, ...]
) -> list[mx.array | None]:
    """Random moves of every step.

    Args:
        config: Settings of the lattice.
        options: Deviation and key of the noise.
        shape: ``(B, F, 3)``.

    Returns:
        One array ``[B, F, 3]`` for each step, or None without a key.
    """
    if options.key is None:
        return [None] * config.total_steps
    keys = mx.random.split(options.key, config.total_steps)
    return [options.sigma * mx.random.normal(shape, key=key) for key in keys]


def propagate(
    steps: StepRunner, config: LatticeConfig, state: FlowState, options: FlowOptions
) -> Iterator[FlowState]:
    """Yield the state after every step, then the state after landing.

    Args:
        steps: Runs the steps.
        config: Settings of the lattice.
        state: What ``launch`` gives.
        options: Scale and noise.
    """
    fused = steps.fused()
    for index, noise in enumerate(draw_noise(config, options, state.position.shape)):
        state = steps(state, index, scale=options.scale, noise=noise, fused=fused)
        yield state
    yield land(config, state)

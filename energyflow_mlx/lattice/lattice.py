"""The energy lattice as one layer: vector -> surface -> flows -> surface -> vector."""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.dynamics import FlowStep
from energyflow_mlx.lattice.ends import build_collector, build_mapper
from energyflow_mlx.lattice.field import write_grid
from energyflow_mlx.lattice.readout import (
    count_meetings,
    describe_flows,
    read_faces,
    weigh_births,
)
from energyflow_mlx.lattice.solve import StepRunner, propagate
from energyflow_mlx.lattice.state import (
    FlowOptions,
    FlowState,
    check_flow_count,
    launch,
)


class LatticeOutput(NamedTuple):
    """What a forward pass gives; lazy throughout.

    Attributes:
        vector: Read off the output surface, ``[B, E]``, not normalized.
        surface_in: Energies the flows started with, ``[B, H, W]``.
        surface_out: Energies that arrived, both faces together, ``[B, H, W]``.
        births: Weights of all children over the slots for them, scalar.
        statistics: See ``readout.describe_flows``; ``meetings`` beside them, see
            ``readout.count_meetings``, where all states are at hand.
        flows: Every flow after landing.
    """

    vector: mx.array
    surface_in: mx.array
    surface_out: mx.array
    births: mx.array
    statistics: dict[str, mx.array]
    flows: FlowState


class FlowPaths(NamedTuple):
    """The path of every flow, for pictures; time 0 is the launch.

    Attributes:
        position: ``[steps + 1, B, F, 3]``; the last entry is before projection.
        energy: ``[steps + 1, B, F]``.
        alive: ``[steps + 1, B, F]`` bool.
        field: What ``field.write_grid`` gives, ``[steps + 1, B, N, N, N, 2]``; none
            without a medium.
        output: The forward pass itself.
    """

    position: mx.array
    energy: mx.array
    alive: mx.array
    field: mx.array | None
    output: LatticeOutput


class EnergyLattice(nn.Module):
    """Mapper, flows and collector. Nothing is kept between calls but the weights."""

    def __init__(self, config: LatticeConfig, embedding_dim: int) -> None:
        """Create a lattice for vectors of ``embedding_dim`` numbers."""
        super().__init__()
        self.mapper = build_mapper(config, embedding_dim)
        # Not ``step``: MLX optimizers keep their counter under that name.
        self.flow = FlowStep(config)
        self.collector = build_collector(config, embedding_dim, self.mapper)
        self.config = config
        self._steps = StepRunner(self.flow, config)

    def __call__(
        self,
        vector: mx.array,
        *,
        key: mx.array | None = None,
        displacement_scale: float | mx.array | None = None,
        noise_sigma: float | mx.array = 0.0,
    ) -> LatticeOutput:
        """Send vectors through the cube.

        Args:
            vector: ``[B, E]``.
            key: Random key of noise and dropout; wanted in training when either is
                on, ignored in evaluation.
            displacement_scale: See ``motion.displacement_scale``; None is its final
                value.
            noise_sigma: See ``motion.exploration_sigma``; ignored in evaluation.

        Raises:
            ValueError: The batch needs too many flow slots, the shape of ``vector``
                does not fit, or a key is missing.
        """
        self._check_vector(vector)
        keys = self._keys(key, noise_sigma)
        surface = self.mapper(vector, key=keys[0])
        options = self._options(displacement_scale, noise_sigma, keys[1])
        return self._read_out(surface, self._travel(surface, options), keys[2])

    def from_surface(
        self,
        surface: mx.array,
        *,
        key: mx.array | None = None,
        displacement_scale: float | mx.array | None = None,
        noise_sigma: float | mx.array = 0.0,
    ) -> LatticeOutput:
        """Send ready surfaces, ``[B, S]`` or ``[B, H, W]``, through the cube.

        The other arguments are those of a call. The mapper is not used.

        Raises:
            ValueError: The surface has another size, the batch needs too many flow
                slots, or a key is missing.
        """
        surface = self._as_surface(surface)
        keys = self._keys(key, noise_sigma)
        options = self._options(displacement_scale, noise_sigma, keys[1])
        return self._read_out(surface, self._travel(surface, options), keys[2])

    def trace(
        self, vector: mx.array, *, displacement_scale: float | mx.array | None = None
    ) -> FlowPaths:
        """Send vectors ``[B, E]`` through the cube and keep the path of every flow.

        Meant for evaluation: no noise, no dropout.

        Raises:
            ValueError: As in a call.
        """
        self._check_vector(vector)
        return self.trace_surface(
            self.mapper(vector), displacement_scale=displacement_scale
        )

    def trace_surface(
        self, surface: mx.array, *, displacement_scale: float | mx.array | None = None
    ) -> FlowPaths:
        """Send ready surfaces, ``[B, S]`` or ``[B, H, W]``, and keep every path.

        Raises:
            ValueError: As in ``from_surface``.
        """
        surface = self._as_surface(surface)
        options = self._options(displacement_scale, 0.0, None)
        *states, landed = self._travel(surface, options)
        states.insert(0, launch(self.config, surface))
        return FlowPaths(
            position=mx.stack([state.position for state in states]),
            energy=mx.stack([state.energy for state in states]),
            alive=mx.stack([state.alive for state in states]),
            field=self._field(states),
            output=self._read_out(surface, [*states[1:], landed], None),
        )

    def _field(self, states: list[FlowState]) -> mx.array | None:
        cells = self.config.field.cells
        return mx.stack([write_grid(s, cells) for s in states]) if cells else None

    def _read_out(
        self, surface: mx.array, states: list[FlowState], key: mx.array | None
    ) -> LatticeOutput:
        """As ``finish``, of the states after every step and the landed one."""
        output = self.finish(surface, states[-1], key)
        met = {"meetings": count_meetings(self.config, states[:-1])}
        return output._replace(statistics=output.statistics | met)

    def image(self, vector: mx.array) -> mx.array:
        """Surfaces ``[B, H, W]`` of vectors ``[B, E]``, without dropout: as a goal."""
        was_training = self.mapper.training
        self.mapper.eval()
        surface: mx.array = self.mapper(vector)
        self.mapper.train(was_training)
        return surface

    @property
    def embedding_dim(self) -> int:
        """Width E of the vectors."""
        width: int = self.mapper.direct.shape[1]
        return width

    def _check_vector(self, vector: mx.array) -> None:
        """Refuse a wrong shape, or too many flows, before any work."""
        dim = self.embedding_dim
        if vector.ndim != 2 or vector.shape[1] != dim:
            raise ValueError(
                f"[EnergyLattice] vector must be [B, {dim}], got {list(vector.shape)}."
            )
        check_flow_count(self.config, vector.shape[0])

    def _as_surface(self, surface: mx.array) -> mx.array:
        config = self.config
        if surface.ndim == 2 and surface.shape[1] == config.surface_size:
            return surface.reshape(-1, config.cube.height, config.cube.width)
        return surface

    def _keys(
        self, key: mx.array | None, sigma: float | mx.array
    ) -> tuple[mx.array | None, mx.array | None, mx.array | None]:
        """Keys of the mapper, the noise and the collector; None is no randomness."""
        if not self.training:
            return None, None, None
        is_noisy = isinstance(sigma, mx.array) or sigma > 0.0
        if key is None:
            if is_noisy:
                raise ValueError(
                    "[EnergyLattice] key must be given in training with noise, got "
                    "None; call .eval() for inference."
                )
            return None, None, None
        mapper, noise, collector = mx.random.split(key, 3)
        return mapper, noise if is_noisy else None, collector

    def _options(
        self,
        scale: float | mx.array | None,
        sigma: float | mx.array,
        key: mx.array | None,
    ) -> FlowOptions:
        if scale is None:
            scale = self.config.motion.scale_min
        return FlowOptions(scale, sigma, key)

    def _travel(self, surface: mx.array, options: FlowOptions) -> list[FlowState]:
        state = launch(self.config, surface)
        return list(propagate(self._steps, self.config, state, options))

    def finish(
        self, surface: mx.array, flows: FlowState, key: mx.array | None
    ) -> LatticeOutput:
        """Read landed flows out.

        Args:
            surface: What they started with, ``[B, H, W]``.
            flows: After ``land``.
            key: Random key of the collector's dropout, in training.
        """
        faces = read_faces(self.config, flows)
        arrived = faces[0] + faces[1] if self.config.readout.is_split else faces[0]
        return LatticeOutput(
            vector=self.collector(mx.concatenate(faces, axis=1), key=key),
            surface_in=surface,
            surface_out=arrived,
            births=weigh_births(self.config, flows),
            statistics=describe_flows(self.config, flows, arrived),
            flows=flows,
        )

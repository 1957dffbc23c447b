"""Flow: a vector through the lattice and back, and what both flow objectives share."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import (
    Config,
    FlowConfig,
    LatticeConfig,
    chosen_objectives,
)
from energyflow_mlx.config.checks import require
from energyflow_mlx.config.objectives import ThroughLatticeConfig
from energyflow_mlx.evaluation.flow_record import FlowRecord
from energyflow_mlx.evaluation.held_out import (
    HeldOut,
    Pass,
    through_lattice,
    vector_metrics,
)
from energyflow_mlx.evaluation.retrieval import precision_at
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.evaluation.tracing import trace_vectors
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import (
    EnergyLattice,
    LatticeOutput,
    displacement_scale,
    exploration_sigma,
)
from energyflow_mlx.lattice.adjoint import (
    Ends,
    Execution,
    loss_of,
    output_of,
    value_and_grad,
)
from energyflow_mlx.lattice.state import FlowOptions
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import (
    Arrays,
    Differentiated,
    Installed,
    Objective,
    Outcome,
    StepBatch,
    add_noise,
    require_lattice,
)
from energyflow_mlx.training.objectives.distillation import (
    VECTOR_MEASURES,
    vector_distance,
)
from energyflow_mlx.training.precision import cast_parameters

_MEASURED = 16  # held-out sentences that travel together, where so many may
# Statistics of the flows that training reports.
_REPORTED = ("reached", "covered", "path", "sideways")


class ThroughLattice(Objective):
    """An objective with the energy lattice in it: a surface, the flows, an outcome."""

    measures = VECTOR_MEASURES
    measured_at_start = True
    shows_flows = True
    settings: ThroughLatticeConfig
    # Prefixes of the parameters that ``surface`` and ``outcome`` learn.
    before_parts: tuple[str, ...]
    after_parts: tuple[str, ...]

    def __init__(self, settings: Any, config: Config) -> None:
        """Create the objective.

        Raises:
            InputError: The configuration has no lattice.
        """
        super().__init__(settings, config)
        why = f"objectives.{self.name} trains one"
        self.lattice: LatticeConfig = require_lattice(config, why)

    def require_micro_batch(self, rows: int) -> None:
        """Refuse micro-batches of more flows than may be active."""
        lattice, most = self.lattice, self.lattice.most_samples
        expected = (
            f"<= {most}, as a sentence takes {lattice.slots} flow slots and "
            f"lattice.cube.max_active_flows is {lattice.cube.max_active_flows}"
        )
        require(rows <= most, "trainer.micro_batch", expected, rows)

    def surface(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """Surface that launches the flows, ``[B, H, W]``."""
        raise NotImplementedError

    def outcome(
        self, model: EnergyFlow, batch: StepBatch, key: mx.array, output: LatticeOutput
    ) -> Outcome:
        """Loss of what the lattice gave."""
        raise NotImplementedError

    def travelled(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Vectors of held-out sentences ``[N, E]``, and the flows' mean statistics."""
        raise NotImplementedError

    def vectors(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> np.ndarray:
        """What comes out of the lattice."""
        return self.travelled(codec, held_out, engine)[0]

    @property
    def measured_together(self) -> int:
        """Held-out sentences that travel together."""
        return min(_MEASURED, self.lattice.most_samples)

    def controls(self, step: int) -> dict[str, float]:
        """Factor on the learned moves, deviation of the noise, weight of births."""
        return {
            "displacement_scale": displacement_scale(self.lattice, step),
            "noise_sigma": exploration_sigma(self.lattice, step),
            "births_cost": cost_of_births(self.settings, step),
        }

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """Vectors that come out of the lattice, ``[B, E]``."""
        inputs, options = _inputs(batch, key, mx.array(1.0))
        output = output_of(self._ends(model), model.lattice, inputs, options)
        return output.vector

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Loss of what came through the lattice."""
        inputs, options = _inputs(batch, key, mx.array(1.0))
        outcome: Outcome = loss_of(self._ends(model), model.lattice, inputs, options)[1]
        return outcome

    def differentiate(
        self, model: EnergyFlow, installed: Installed, engine: ReadbackEngine
    ) -> Differentiated:
        """Through the lattice in the way that its configuration says."""
        way = self.lattice.adjoint.way
        precision = self.config.precision
        execution = Execution(
            installed=lambda arrays, inputs: installed(arrays, inputs.batch.rows),
            cast=lambda parameters: cast_parameters(parameters, precision),
            compiles=self.config.trainer.compile,
            start=engine.start,
        )
        gradient = value_and_grad(self._ends(model), model.lattice, execution, way=way)

        def function(
            stepped: Arrays,
            fixed: Arrays,
            batch: StepBatch,
            key: mx.array,
            scale: mx.array,
        ) -> tuple[Outcome, Arrays]:
            inputs, options = _inputs(batch, key, scale)
            (_, outcome), gradients = gradient(stepped, fixed, inputs, options)
            return outcome, gradients

        return Differentiated(function, is_one_graph=way == "graph")

    def _ends(self, model: EnergyFlow) -> Ends:
        def before(inputs: _Inputs) -> mx.array:
            share = self.settings.mask
            if share == 0:
                return self.surface(model, inputs.batch, inputs.before_key)
            key, hidden = mx.random.split(inputs.before_key)
            return hide_cells(self.surface(model, inputs.batch, key), share, hidden)

        def after(inputs: _Inputs, output: LatticeOutput) -> tuple[mx.array, Outcome]:
            outcome = self.outcome(model, inputs.batch, inputs.after_key, output)
            return outcome.loss * inputs.scale, outcome

        return Ends(before, after, self.before_parts, self.after_parts)


class _Inputs(NamedTuple):
    """What both ends get: the batch, a random key each, the loss scale."""

    batch: StepBatch
    before_key: mx.array
    after_key: mx.array
    scale: mx.array


def _inputs(
    batch: StepBatch, key: mx.array, scale: mx.array
) -> tuple[_Inputs, FlowOptions]:
    before_key, lattice_key, after_key = mx.random.split(key, 3)
    controls = batch.controls
    options = FlowOptions(
        scale=controls["displacement_scale"],
        sigma=controls["noise_sigma"],
        key=lattice_key,
    )
    return _Inputs(batch, before_key, after_key, scale), options


def cost_of_births(settings: ThroughLatticeConfig, step: int) -> float:
    """Weight of what children cost at an update, from 0.

    births * clip((step + 1 - births_after) / births_over, 0, 1)

    What costs from the start is gone before it is useful, and what is never born has
    no gradient.

    Args:
        settings: Weight and schedule.
        step: Number of the update.
    """
    paid = step + 1 - settings.births_after
    return settings.births * min(1.0, max(0.0, paid / max(1, settings.births_over)))


def hide_cells(surface: mx.array, share: float, key: mx.array) -> mx.array:
    """Set a random share of the energies of surfaces ``[B, H, W]`` to 0."""
    is_kept = mx.random.bernoulli(1.0 - share, surface.shape, key=key)
    return mx.where(is_kept, surface, 0.0)


def flow_outcome(
    model: EnergyFlow,
    output: LatticeOutput,
    target: mx.array,
    settings: ThroughLatticeConfig,
    *,
    births: mx.array,
) -> Outcome:
    """Distance of the lattice's vector to the target, with the flows' statistics.

    Args:
        model: Model with a lattice.
        output: What the lattice gave.
        target: ``[B, E]`` float32.
        settings: Weights of the terms.
        births: Weight of what children cost at this update, scalar.
    """
    found = vector_distance(output.vector.astype(mx.float32), target, settings)
    total, rows = found.loss, found.count
    if settings.surface > 0:
        # The image of the target is a goal: no gradient reaches the mapper by it.
        image = mx.stop_gradient(model.lattice.image(target))
        square = mx.square(output.surface_out - image.reshape(output.surface_out.shape))
        total = total + settings.surface * rows * mx.mean(square)
    if settings.births > 0:
        above = mx.maximum(output.births - settings.births_free, 0.0)
        total = total + births * rows * above
    statistics = {f"flow_{k}": output.statistics[k] * rows for k in _REPORTED}
    return Outcome(total, rows, found.metrics | statistics)


class Flow(ThroughLattice):
    """Train the lattice, and both its ends, to give a vector back, or its pair's.

    With pairs the first half of a target is the goal and the second half the source,
    ``[B, 2E]``; otherwise both are one vector.
    """

    name = "flow"
    reads_text = False
    takes_pairs = True
    before_parts = ("lattice.mapper",)
    after_parts = ("lattice.collector",)
    settings: FlowConfig

    @property
    def parts(self) -> tuple[str, ...]:
        """The whole lattice."""
        return ("lattice",)

    def surface(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """Lay the source vector out."""
        source = batch.target[:, -model.lattice.embedding_dim :]
        if self.settings.noise > 0:
            key, drawn = mx.random.split(key)
            source = add_noise(source, self.settings.noise, drawn)
        return model.lattice.mapper(source, key=key)

    def outcome(
        self, model: EnergyFlow, batch: StepBatch, key: mx.array, output: LatticeOutput
    ) -> Outcome:
        """The vector that came out, against the goal."""
        goal = batch.target[:, : model.lattice.embedding_dim]
        births = batch.controls["births_cost"]
        return flow_outcome(model, output, goal, self.settings, births=births)

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Closeness of what comes out of the lattice, and the flows' statistics.

        Where another objective of the run measures its vectors under the plain names,
        those of the closeness begin with ``transform_``.

        With a mask ``masked_cosine`` is that of the same rows with cells hidden. With
        noise ``sharpened_cosine`` is that of the same rows with noise,
        ``sharpened_p_at_1`` how many of them come out nearest their own clean vector,
        and ``noisy_p_at_1`` how many were nearest it before.
        """
        vectors, statistics = self.travelled(codec, held_out, engine)
        goals = held_out.targets[:, : codec.dimension]
        closeness = vector_metrics(vectors, goals)
        found = {f"{self._prefix}{k}": v for k, v in closeness.items()} | statistics
        sources = held_out.targets[:, -codec.dimension :]
        lattice = codec.model.lattice
        if self.settings.mask > 0:
            mend = partial(_mend, lattice, self.settings.mask)
            mended, _ = self._send(mend, sources, engine)
            found["masked_cosine"] = float(np.mean(cosine_rows(mended, goals)))
        if self.settings.noise > 0:
            drawn = add_noise(mx.array(sources), self.settings.noise, mx.random.key(0))
            with engine.batch("noise"):
                read = engine.defer("noise", drawn)
            noisy = read.value()
            sharpened = vector_metrics(self._send(lattice, noisy, engine)[0], goals)
            found |= {f"sharpened_{n}": sharpened[n] for n in ("cosine", "p_at_1")}
            found["noisy_p_at_1"] = precision_at(noisy, goals, (1,))[1]
        return found

    @property
    def _prefix(self) -> str:
        """Of the names of the closeness, which another objective may measure too."""
        others = chosen_objectives(self.config.objectives).keys() - {self.name}
        measured = {k for name in others for k in Objective.registered[name].measures}
        return "transform_" if measured & self.measures.keys() else ""

    def travelled(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The source vectors through the lattice."""
        sources = held_out.targets[:, -codec.dimension :]
        return self._send(codec.model.lattice, sources, engine)

    def _send(
        self,
        through: Callable[[mx.array], LatticeOutput],
        sources: np.ndarray,
        engine: ReadbackEngine,
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Source vectors ``[N, E]`` through something; as ``travelled``."""
        size = self.measured_together

        def outputs() -> Iterator[Pass]:
            for start in range(0, len(sources), size):
                rows = np.arange(start, min(start + size, len(sources)))
                vectors = mx.array(sources[rows], mx.float32)
                yield rows, partial(through, vectors)

        return through_lattice(outputs(), sources.shape, engine)

    def trace(
        self,
        codec: SentenceCodec,
        texts: list[str],
        embed: Callable[[list[str]], np.ndarray],
    ) -> list[FlowRecord]:
        """The teacher's vectors of the sentences through the lattice."""
        return trace_vectors(codec, texts, embed(texts))


def _mend(lattice: EnergyLattice, share: float, vectors: mx.array) -> LatticeOutput:
    """Vectors ``[B, E]`` through a lattice with a share of the cells hidden."""
    surface = hide_cells(lattice.mapper(vectors), share, mx.random.key(0))
    return lattice.from_surface(surface)

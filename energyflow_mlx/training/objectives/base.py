"""What an objective is: loss, the parts it reaches, its measures, its schedules.

An objective returns the *sum* of its loss over what it averages over (sentences or real
target tokens) and that count, so that gradients of N micro-batches add up to the
gradient of one big batch. A new one is a subclass with a ``name``, its settings
registered under that name (``config.objective_settings``), and an experiment.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import Config, CorrectionConfig, LatticeConfig
from energyflow_mlx.data.batching import TargetRows
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.flow_record import FlowRecord
from energyflow_mlx.evaluation.held_out import HeldOut, ReadBack
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runs.record import Record
from energyflow_mlx.text.corrector import Guess
from energyflow_mlx.training.token_rows import TokenRows

Arrays = dict[str, mx.array]
Installed = Callable[[Arrays, TokenRows], AbstractContextManager[None]]


class StepBatch(NamedTuple):
    """One micro-batch, with what holds for its update; NumPy arrays while prepared.

    Attributes:
        ids: Token ids, ``[B, L]`` int32.
        mask: 1 for real tokens, ``[B, L]`` float32.
        target: The teacher's vectors, ``[B, E]`` float32.
        rows: Rows of the token tables that the update touches.
        controls: Values of the objective's schedules, scalars by name.
        targets: The real next tokens; none where nothing is written.
        guess: What the sentences may be; none where the decoder reads no guess.
    """

    ids: mx.array
    mask: mx.array
    target: mx.array
    rows: TokenRows
    controls: Mapping[str, mx.array] = {}
    targets: TargetRows | None = None
    guess: Guess | None = None


class Outcome(NamedTuple):
    """What an objective gives.

    Attributes:
        loss: Sum of the loss, scalar float32.
        count: What the sum is divided by: sentences or real target tokens.
        metrics: Sums of the same kind, reported as means.
    """

    loss: mx.array
    count: mx.array
    metrics: dict[str, mx.array]


class Differentiated(NamedTuple):
    """An objective's gradient function and how it may be compiled.

    Attributes:
        function: ``(stepped, fixed, batch, key, scale) -> (Outcome, gradients)``: the
            gradients of the scaled loss with respect to the arrays of ``stepped``.
        is_one_graph: It only builds a graph: a whole update may be compiled around it.
    """

    function: Callable[
        [Arrays, Arrays, StepBatch, mx.array, mx.array], tuple[Outcome, Arrays]
    ]
    is_one_graph: bool


def add_noise(vectors: mx.array, length: float, key: mx.array) -> mx.array:
    """Vectors ``[B, E]`` with a random vector of about this length added to each."""
    noise = mx.random.normal(vectors.shape, key=key)
    return vectors + noise * (length / vectors.shape[-1] ** 0.5)


class Objective:
    """One thing a run trains.

    Attributes:
        name: Its name in configuration and metrics.
        measures: Metrics of its validation that may choose the best checkpoint, and
            whether higher is better.
        reads_text: It needs sentences; otherwise vectors alone will do.
        takes_pairs: Its targets may be vectors of other sentences than its inputs.
        takes_own_pairs: Some of its updates may be made of ``data.own_pairs``.
        measured_at_start: Held-out metrics are wanted before any training too.
        shows_flows: It has flows to draw.
    """

    name: ClassVar[str]
    measures: ClassVar[Mapping[str, bool]] = {}
    reads_text: ClassVar[bool] = True
    takes_pairs: ClassVar[bool] = False
    takes_own_pairs: ClassVar[bool] = False
    measured_at_start: ClassVar[bool] = False
    shows_flows: ClassVar[bool] = False
    registered: ClassVar[dict[str, type["Objective"]]] = {}

    def __init_subclass__(cls) -> None:
        """Register every objective that has a name of its own."""
        if "name" in cls.__dict__:
            Objective.registered[cls.name] = cls

    def __init__(self, settings: Any, config: Config) -> None:
        """Create the objective from its own settings and the run's."""
        self.settings = settings
        self.config = config

    @property
    def parts(self) -> tuple[str, ...]:
        """Prefixes of the parameters that its gradient reaches."""
        raise NotImplementedError

    @property
    def uses(self) -> tuple[str, ...]:
        """Prefixes of the parameters that it needs, learned or not."""
        return self.parts

    @property
    def averaged_parts(self) -> tuple[str, ...]:
        """Prefixes of the parameters whose moving average its loss reads; not learned.

        In place of their weights, where the run keeps an average.
        """
        return ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of a shortened vector that mean something by themselves, if any."""
        return ()

    @property
    def pair_file(self) -> str | None:
        """File of the pairs that its updates are made of, in place of sentences."""
        return None

    @property
    def guessing(self) -> CorrectionConfig | None:
        """How the guesses that its updates read are made; none = it reads none."""
        return None

    def require_micro_batch(self, rows: int) -> None:
        """Refuse micro-batches that the model cannot take.

        Args:
            rows: ``trainer.micro_batch``.

        Raises:
            InputError: They are too large.
        """
        return None

    def require_trained(self, record: Record) -> None:
        """Refuse a run that leaves untrained what the objective only reads.

        Args:
            record: What the run takes over and what its objectives train.

        Raises:
            InputError: It does.
        """
        return None

    def require_dimension(self, dimension: int) -> None:
        """Refuse settings that do not fit vectors of this many numbers.

        Raises:
            InputError: They do not.
        """
        return None

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Loss of one micro-batch.

        Args:
            model: Model in training mode, the update's parameters installed.
            batch: The micro-batch.
            key: Random key of the micro-batch.
        """
        raise NotImplementedError

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Any:
        """Arrays that ``loss`` starts from: a timed run times them alone.

        Arguments as in ``loss``; none where there is nothing to time.
        """
        return None

    def controls(self, step: int) -> dict[str, float]:
        """Values of the objective's schedules at update ``step``, by name."""
        return {}

    def differentiate(
        self, model: EnergyFlow, installed: Installed, engine: ReadbackEngine
    ) -> Differentiated:
        """How the gradient of the loss is taken: in one graph.

        Args:
            model: The model.
            installed: Context in which the model has parameters, in the compute
                format, and finds its gathered rows.
            engine: The run's readback engine, to start what is built in parts.
        """

        def function(
            stepped: Arrays,
            fixed: Arrays,
            batch: StepBatch,
            key: mx.array,
            scale: mx.array,
        ) -> tuple[Outcome, Arrays]:
            def loss(stepped: Arrays) -> tuple[mx.array, Outcome]:
                with installed({**fixed, **stepped}, batch.rows):
                    outcome = self.loss(model, batch, key)
                return outcome.loss * scale, outcome

            (_, outcome), gradients = mx.value_and_grad(loss)(stepped)
            return outcome, gradients

        return Differentiated(function, is_one_graph=True)

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Metrics on held-out sentences.

        Args:
            codec: The model in evaluation mode.
            held_out: Sentences and their vectors.
            engine: The run's readback engine.
        """
        raise NotImplementedError

    def vectors(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> np.ndarray | None:
        """Vectors that held-out sentences get, ``[N, E]``; none where it gives none.

        Arguments as in ``validate``.
        """
        return None

    def read_back(self, codec: SentenceCodec, held_out: HeldOut) -> list[ReadBack]:
        """Held-out sentences as the model writes them, one entry for each path."""
        return []

    def trace(
        self,
        codec: SentenceCodec,
        texts: list[str],
        embed: Callable[[list[str]], np.ndarray],
    ) -> list[FlowRecord]:
        """Sentences through the lattice, every flow's path kept, where there is one.

        Args:
            codec: A trained model.
            texts: Sentences.
            embed: The teacher's vectors of texts.
        """
        return []


def require_lattice(config: Config, why: str) -> LatticeConfig:
    """Settings of the lattice that an objective works on.

    Args:
        config: The run's configuration.
        why: Which objective needs it, and for what.

    Raises:
        InputError: The configuration has no lattice.
    """
    if config.lattice is None:
        raise InputError(f"[config] lattice must be set, because {why}, got none.")
    return config.lattice

"""Text through the lattice: encoder, surface, flows, vector, decoder."""

from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from energyflow_mlx.config import FlowTextConfig
from energyflow_mlx.data.batching import cover, pad_rows
from energyflow_mlx.evaluation.flow_record import FlowRecord
from energyflow_mlx.evaluation.held_out import (
    HeldOut,
    Pass,
    ReadBack,
    through_lattice,
    vector_metrics,
)
from energyflow_mlx.evaluation.tracing import trace_texts
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.lattice import LatticeOutput
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.nn.losses import unit_rows
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import Outcome, StepBatch
from energyflow_mlx.training.objectives.flow import ThroughLattice, flow_outcome
from energyflow_mlx.training.objectives.reconstruction import sentence_loss


class FlowText(ThroughLattice):
    """Train encoder, flows, collector and decoder end to end.

    L = distance(vector, teacher's vector) + text * CE(text | unit vector)

    The cross entropy is scaled to the mean over tokens times the sentences, so that its
    weight does not depend on the length of the sentences.
    """

    name = "flow_text"
    before_parts = ("encoder", "shared")
    after_parts = ("lattice.collector", "decoder", "shared")
    settings: FlowTextConfig

    @property
    def parts(self) -> tuple[str, ...]:
        """All but the mapper, and the decoder only where its text counts."""
        decoder = ("decoder",) if self.settings.text > 0 else ()
        return ("encoder", "shared", "lattice.flow", "lattice.collector", *decoder)

    def surface(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """Encode the sentence onto the surface."""
        return model.encode_surface(batch.ids, batch.mask, key=key)

    def outcome(
        self, model: EnergyFlow, batch: StepBatch, key: mx.array, output: LatticeOutput
    ) -> Outcome:
        """The vector that came out, against the teacher's, and the text from it."""
        births, target = batch.controls["births_cost"], batch.target
        found = flow_outcome(model, output, target, self.settings, births=births)
        if self.settings.text == 0:
            return found
        vector = unit_rows(output.vector.astype(mx.float32))
        smoothing = self.settings.label_smoothing
        ce, tokens = sentence_loss(model, batch, vector, key, smoothing)
        mean = ce / mx.maximum(tokens, 1.0) * found.count
        total = found.loss + self.settings.text * mean
        return Outcome(total, found.count, found.metrics | {"own_ce": mean})

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """Closeness of the sentences' vectors, and the flows' statistics."""
        vectors, statistics = self.travelled(codec, held_out, engine)
        return vector_metrics(vectors, held_out.targets) | statistics

    def travelled(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The sentences through encoder and lattice."""
        buckets, size = codec.config.data.buckets, self.measured_together

        def outputs() -> Iterator[Pass]:
            for bucket, rows in cover(held_out.ids, buckets, size):
                ids, mask = pad_rows([held_out.ids[i] for i in rows], bucket)
                yield rows, partial(_travel, codec.model, mx.array(ids), mx.array(mask))

        shape = (len(held_out.ids), codec.dimension)
        return through_lattice(outputs(), shape, engine)

    def read_back(self, codec: SentenceCodec, held_out: HeldOut) -> list[ReadBack]:
        """The sentences as the decoder writes them from their own vectors."""
        if self.settings.text == 0:
            return []
        texts = codec.decode(codec.encode(held_out.texts))
        return [ReadBack("_through_lattice", texts, held_out)]

    def trace(
        self,
        codec: SentenceCodec,
        texts: list[str],
        embed: Callable[[list[str]], np.ndarray],
    ) -> list[FlowRecord]:
        """The sentences through encoder and lattice."""
        return trace_texts(codec, texts)


def _travel(model: EnergyFlow, ids: mx.array, mask: mx.array) -> LatticeOutput:
    return model.lattice.from_surface(model.encode_surface(ids, mask))

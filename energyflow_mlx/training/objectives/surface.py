"""Surface: what the encoder and the mapper lay out for one sentence, made alike."""

import mlx.core as mx

from energyflow_mlx.config import Config, SurfaceConfig
from energyflow_mlx.config.checks import require
from energyflow_mlx.data.batching import cover, pad_rows
from energyflow_mlx.evaluation.held_out import HeldOut
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import EnergyFlow
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.training.objectives.base import (
    Objective,
    Outcome,
    StepBatch,
    require_lattice,
)

_MEASURED = 64  # held-out sentences that are encoded together
_SIDES = {"encoder": ("encoder", "shared"), "mapper": ("lattice.mapper",)}


class Surface(Objective):
    """Fit the encoder's surfaces to the mapper's, or the mapper's to the encoder's.

    L = sum_b mean over the cells of (encoder(sentence_b) - mapper(vector_b))^2

    The side that is not learned is the target: as it is, or, where other objectives
    move it with their updates, its moving average, which changes slowly. No flow
    travels: an update costs what one of distillation does, and a lattice that sends
    vectors learns to take sentences, or the other way round.

    Source: ``L_enc`` of the reference system's trainer; the averaged target is that of
    Tarvainen and Valpola, "Mean teachers are better role models", 2017.
    """

    name = "surface"
    measures = {"surface_mse": False}
    measured_at_start = True
    settings: SurfaceConfig

    def __init__(self, settings: SurfaceConfig, config: Config) -> None:
        """Create the objective.

        Raises:
            InputError: The configuration has no lattice, or no average for the target.
        """
        super().__init__(settings, config)
        require_lattice(config, f"{settings.key} fits what goes into one")
        require(
            settings.target == "current" or config.trainer.ema > 0,
            "trainer.ema",
            f"above 0 where {settings.key}.target=average",
            config.trainer.ema,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The side that learns."""
        return _SIDES[self.settings.learns]

    @property
    def averaged_parts(self) -> tuple[str, ...]:
        """The other side, where its moving average is the target."""
        if self.settings.target == "current":
            return ()
        return _SIDES["encoder" if self.settings.learns == "mapper" else "mapper"]

    @property
    def uses(self) -> tuple[str, ...]:
        """Both sides."""
        return ("encoder", "shared", "lattice")

    def forward(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> mx.array:
        """Surfaces that the encoder gives the sentences, ``[B, H, W]``."""
        return model.encode_surface(batch.ids, batch.mask, key=key)

    def loss(self, model: EnergyFlow, batch: StepBatch, key: mx.array) -> Outcome:
        """Squared distance of the two surfaces of each sentence."""
        own, other = mx.random.split(key)
        encoded = self.forward(model, batch, own).astype(mx.float32)
        mapped = model.lattice.mapper(batch.target, key=other).astype(mx.float32)
        total = mx.sum(mx.mean(mx.square(encoded - mapped), axis=(1, 2)))
        return Outcome(total, mx.array(float(len(batch.target))), {})

    def validate(
        self, codec: SentenceCodec, held_out: HeldOut, engine: ReadbackEngine
    ) -> dict[str, float]:
        """``surface_mse``: mean squared difference of the cells of the two surfaces."""
        model, cells = codec.model, codec.model.lattice.config.surface_size
        total = 0.0
        for bucket, rows in cover(held_out.ids, codec.config.data.buckets, _MEASURED):
            ids, mask = pad_rows([held_out.ids[i] for i in rows], bucket)
            mapped = model.lattice.mapper(mx.array(held_out.targets[rows]))
            with engine.batch("validation"):
                encoded = model.encode_surface(mx.array(ids), mx.array(mask))
                read = engine.defer("surfaces", mx.sum(mx.square(encoded - mapped)))
            total += read.value()
        return {"surface_mse": total / (cells * len(held_out.ids))}

"""An update on its way: built and started, its values not read yet."""

import logging
import math
from typing import NamedTuple

from energyflow_mlx.readback import Flight, Readback

logger = logging.getLogger(__name__)


class Submitted(NamedTuple):
    """An update that the device computes, or has computed.

    Attributes:
        step: Its number.
        objective: What it trains.
        lr: Its learning rate.
        flights: Its micro-batches; the last lands when the whole update is computed.
        report: Its values.
    """

    step: int
    objective: str
    lr: float
    flights: list[Flight]
    report: Readback

    def values(self, dtype: str) -> dict[str, float]:
        """Wait for the update; its values on the host, named for the log.

        Args:
            dtype: Format of forward and backward.

        Raises:
            FloatingPointError: Loss or gradient is not finite (float16 skips such an
                update and lowers its loss scale instead).
        """
        name = self.objective
        self.flights[-1].land()
        values: dict[str, float] = self.report.value()
        for key in ("loss", "grad_norm"):
            value = values[key]
            if not math.isfinite(value) and dtype != "float16":
                raise FloatingPointError(
                    f"[train] {key} of {name} update {self.step} must be finite, "
                    f"got {value}."
                )
            values[f"{name}_{key}"] = values.pop(key)
        norm = values[f"{name}_grad_norm"]
        logger.debug("update %d: %s grad_norm %.4g", self.step, name, norm)
        return values | {f"{name}_lr": self.lr}

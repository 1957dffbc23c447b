"""An update on its way: built and started, its values not read yet."""

from typing import NamedTuple

from energyflow_mlx.readback import Flight, Readback


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

"""How a host launch is run."""

from dataclasses import dataclass
from enum import IntEnum


class Order(IntEnum):
    """Order of groups, and of the threads of a group between two barriers."""

    FORWARD = 0
    REVERSE = 1
    RANDOM = 2  # also stops at atomics


@dataclass(frozen=True)
class Schedule:
    """One way to run a launch.

    Attributes:
        order: Who runs first.
        seed: Of the random order.
        input_offset: Elements by which input pointers are moved off their natural
            alignment, as a slice like ``x[1:]`` does on the device.
    """

    order: Order
    seed: int = 1
    input_offset: int = 0


FORWARD = Schedule(Order.FORWARD)
REVERSE = Schedule(Order.REVERSE, input_offset=1)
RANDOM = Schedule(Order.RANDOM)
ALL_SCHEDULES = (FORWARD, REVERSE, RANDOM)


@dataclass(frozen=True)
class HostOptions:
    """What every launch of a host is held to.

    Attributes:
        schedules: Every launch runs once under each.
        require_same_bits: Results of all schedules must agree bit for bit. Launches
            that added floats atomically are exempt: their sums have no fixed order.
        allow_unwritten: Accept outputs that are only partly written.
        lanes_may_return: Accept simdgroup operations after some lanes returned; they
            count as inactive.
        allow_unordered_atomics: Accept atomic loads and stores that no barrier orders
            against other threads' atomics. Updates never need an order.
        step_budget: Accesses and basic blocks per run, against endless loops.
    """

    schedules: tuple[Schedule, ...] = ALL_SCHEDULES
    require_same_bits: bool = True
    allow_unwritten: bool = False
    lanes_may_return: bool = False
    allow_unordered_atomics: bool = False
    step_budget: int = 400_000_000

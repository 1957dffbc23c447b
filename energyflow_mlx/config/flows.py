"""Config of the flows of the energy lattice: births, carrier, moves, noise, medium.

Lengths are as in ``config.lattice``, whose groups these are too.
"""

from dataclasses import dataclass

from energyflow_mlx.config.checks import (
    COUNT,
    LARGE,
    WIDTH,
    require,
    require_choice,
    require_range,
)

EDGE = 1024  # cells, and steps to cross them
_MOST_LAYERS = 64
_MOST_LEAN = 10  # the move is as long as may be from 3 on
_MOST_PER_CELL = 64  # slots for children


@dataclass
class SpawnConfig:
    """Children of flows.

    Attributes:
        rule: Who has children. ``distance``: flows that move far; ``learned``: the
            launched flows that the carrier scores highest, one child each, whose
            weight in the readout is that score.
        per_cell: Slots for children for each cell of a face, whatever the size of the
            cube: 1 = as many as cells; 0 = no spawning.
        max_per_step: Most children of one parent in one step, by distance.
        threshold: By distance a move of length m makes ``floor(m / threshold) - 1``
            children; learned: least score of a parent, below 1.
        unit: Of m and the threshold, by distance. ``cube``: the whole move, in half
            cubes; ``cells``: the move along x and y alone, in cells along x.
    """

    rule: str = "distance"
    per_cell: float = 0.02
    max_per_step: int = 1
    threshold: float = 0.3
    unit: str = "cube"

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.rule, "lattice.spawn.rule", ("distance", "learned"))
        require_choice(self.unit, "lattice.spawn.unit", ("cube", "cells"))
        require_within(self, "spawn", (0, _MOST_PER_CELL), "per_cell")
        require_within(self, "spawn", (1, COUNT), "max_per_step")
        require_positive(self, "spawn", "threshold")
        if self.is_learned:
            below_one = "< 1 with lattice.spawn.rule=learned"
            is_below, key = self.threshold < 1, "lattice.spawn.threshold"
            require(is_below, key, below_one, self.threshold)

    @property
    def is_learned(self) -> bool:
        """Whether the carrier chooses the parents."""
        return self.rule == "learned"

    def slots_of(self, cells: int) -> int:
        """Slots for the children of a sample of so many cells, to a whole number."""
        return round(self.per_cell * cells)


@dataclass
class CarrierConfig:
    """The neuron and the recurrent carrier that all flows share.

    Attributes:
        hidden: GRU channels Hc.
        layers: GRU layers.
        neuron_hidden: Channels inside the neuron.
        neuron_features: Features the neuron hands to the carrier.
        gru_float32: Run the GRU in float32 whatever the precision of the weights.
        energy_update: ``residual``: ``e + tanh(head) / steps``; ``replace``:
            ``tanh(head)``.
    """

    hidden: int = 128
    layers: int = 2
    neuron_hidden: int = 32
    neuron_features: int = 64
    gru_float32: bool = True
    energy_update: str = "residual"

    def __post_init__(self) -> None:
        """Check ranges."""
        # A quarter of the channels reads the position memory.
        require_within(self, "carrier", (4, WIDTH), "hidden")
        require_within(self, "carrier", (1, WIDTH), "neuron_hidden", "neuron_features")
        require_within(self, "carrier", (1, _MOST_LAYERS), "layers")
        updates = ("residual", "replace")
        require_choice(self.energy_update, "lattice.carrier.energy_update", updates)


@dataclass
class MotionConfig:
    """How far and where a flow moves in a step.

    Attributes:
        reflect: Fold a flow that crosses x or y back into the cube; otherwise it
            stops at the border.
        z_drift: Carry every flow to a face within the steps, without parameters.
        face_tie: A flow takes the face its first z output points to if that output
            is longer than this share of the bound, else the face of its cell's
            color on a chessboard.
        bound: Longest learned move per axis and step.
        scale: Factor on the displacement head's output at the start of training.
        scale_min: The factor it decays to; evaluation uses it.
        warmup: Training steps before the decay.
        decay: Factor per interval.
        interval: Training steps per interval.
        start: The head's last layer at the start of training: ``zero`` (straight
            paths) or ``xavier`` (Xavier-normal, flows stray at once).
        lean: Bias of the head's z output at the start of training: below 0 flows
            begin by heading for the near face, above 0 for the far one.
        freeze: Learn no moves: no gradient passes the head's output (ablation).
    """

    reflect: bool = True
    z_drift: bool = True
    face_tie: float = 0.1
    bound: float = 0.3
    scale: float = 2.0
    scale_min: float = 1.0
    warmup: int = 100
    decay: float = 0.9
    interval: int = 10
    start: str = "zero"
    lean: float = 0.0
    freeze: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        require_within(self, "motion", (0, LARGE), "face_tie", "scale", "scale_min")
        require_within(self, "motion", (-_MOST_LEAN, _MOST_LEAN), "lean")
        require_within(self, "motion", (0, COUNT), "warmup")
        require_within(self, "motion", (1, COUNT), "interval")
        require_positive(self, "motion", "bound", "decay")
        bound_key = "lattice.motion.bound"
        once = "<= 1, so that one fold brings a flow back"
        require(self.bound <= 1, bound_key, once, self.bound)
        for name in ("face_tie", "decay"):
            value = getattr(self, name)
            require(value <= 1, f"lattice.motion.{name}", "<= 1", value)
        require(
            self.scale_min <= self.scale,
            "lattice.motion.scale_min",
            f"<= lattice.motion.scale = {self.scale}",
            self.scale_min,
        )
        require_choice(self.start, "lattice.motion.start", ("zero", "xavier"))


@dataclass
class NoiseConfig:
    """Exploration noise on positions; never in evaluation.

    Attributes:
        sigma: Standard deviation per step, at the start of training.
        steps: Training steps until it has fallen to 0; 0 = constant.
        on_z: Whether the noise moves flows along z too.
    """

    sigma: float = 0.0
    steps: int = 1000
    on_z: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        require_within(self, "noise", (0, LARGE), "sigma")
        require_within(self, "noise", (0, COUNT), "steps")


@dataclass
class FieldConfig:
    """The medium in which flows meet.

    Attributes:
        cells: Cells along each axis of the grid that flows write their energy to and
            read in every step; 0 = no medium.
    """

    cells: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        key = "lattice.field.cells"
        require(self.cells != 1, key, "0 or >= 2", self.cells)
        require_within(self, "field", (0, EDGE), "cells")


def require_within(
    group: object, place: str, bounds: tuple[int, float], *names: str
) -> None:
    """Refuse values of a group outside the bounds, both of which are allowed.

    Args:
        group: Its dataclass.
        place: Its name in the lattice's settings.
        bounds: Least and most.
        *names: Its fields.

    Raises:
        InputError: One is outside.
    """
    for name in names:
        require_range(getattr(group, name), f"lattice.{place}.{name}", *bounds)


def require_positive(group: object, place: str, *names: str) -> None:
    """Refuse values of a group that are 0 or less; arguments as in the other.

    Raises:
        InputError: One is.
    """
    for name in names:
        value, key = getattr(group, name), f"lattice.{place}.{name}"
        require_range(value, key, 0, LARGE, is_open=True)

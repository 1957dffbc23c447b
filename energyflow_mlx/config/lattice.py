"""Config of the energy lattice: types, ranges, units.

Lengths are in normalized units unless a field says cells: the cube spans [-1, 1] on
every axis, so one unit is half the cube. The default of every setting stands here and
nowhere else; a preset holds only what differs.
"""

import math
from dataclasses import dataclass, field

from energyflow_mlx.config.checks import (
    COUNT,
    LARGE,
    WIDTH,
    require,
    require_choice,
    require_range,
    require_share,
)

_EDGE = 1024  # cells, and steps to cross them
_MOST_LAYERS = 64


@dataclass
class CubeConfig:
    """Size of the cube and time to cross it.

    Attributes:
        width: Cells along x, W.
        height: Cells along y, H.
        depth: Cells along z, D; there are D + 1 levels.
        steps: Propagation steps; 0 = ``max(2, ceil(depth / 2))``.
        output_planes: ``dual``: both faces of z receive flows; ``far``: only z = +1.
        max_active_flows: Most flow slots of a whole batch; more are refused.
    """

    width: int = 20
    height: int = 20
    depth: int = 10
    steps: int = 0
    output_planes: str = "dual"
    max_active_flows: int = 100_000

    def __post_init__(self) -> None:
        """Check ranges."""
        _require_within(self, "cube", (2, _EDGE), "width", "height")
        _require_within(self, "cube", (1, _EDGE), "depth")
        _require_within(self, "cube", (1, COUNT), "max_active_flows")
        _require_within(self, "cube", (0, _EDGE), "steps")
        planes = ("dual", "far")
        require_choice(self.output_planes, "lattice.cube.output_planes", planes)

    @property
    def surface_size(self) -> int:
        """Cells of one face, S = W * H."""
        return self.width * self.height

    @property
    def total_steps(self) -> int:
        """Propagation steps T."""
        return self.steps or max(2, math.ceil(self.depth / 2))

    @property
    def is_dual(self) -> bool:
        """Whether both faces of z receive flows."""
        return self.output_planes == "dual"


@dataclass
class SpawnConfig:
    """Children of flows.

    Attributes:
        rule: Who has children. ``distance``: flows that move far; ``learned``: the
            launched flows that the carrier scores highest, one child each, whose
            weight in the readout is that score.
        slots: Slots for children per sample; 0 = no spawning.
        max_per_step: Most children of one parent in one step, by distance.
        threshold: By distance a move of length m makes ``floor(m / threshold) - 1``
            children; learned: least score of a parent, below 1.
        unit: Of m and the threshold, by distance. ``cube``: the whole move, in half
            cubes; ``cells``: the move along x and y alone, in cells along x.
    """

    rule: str = "distance"
    slots: int = 8
    max_per_step: int = 1
    threshold: float = 0.3
    unit: str = "cube"

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.rule, "lattice.spawn.rule", ("distance", "learned"))
        require_choice(self.unit, "lattice.spawn.unit", ("cube", "cells"))
        _require_within(self, "spawn", (0, COUNT), "slots")
        _require_within(self, "spawn", (1, COUNT), "max_per_step")
        _require_positive(self, "spawn", "threshold")
        if self.is_learned:
            below_one = "< 1 with lattice.spawn.rule=learned"
            is_below, key = self.threshold < 1, "lattice.spawn.threshold"
            require(is_below, key, below_one, self.threshold)

    @property
    def is_learned(self) -> bool:
        """Whether the carrier chooses the parents."""
        return self.rule == "learned"


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
        _require_within(self, "carrier", (4, WIDTH), "hidden")
        _require_within(self, "carrier", (1, WIDTH), "neuron_hidden", "neuron_features")
        _require_within(self, "carrier", (1, _MOST_LAYERS), "layers")
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
    freeze: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        _require_within(self, "motion", (0, LARGE), "face_tie", "scale", "scale_min")
        _require_within(self, "motion", (0, COUNT), "warmup")
        _require_within(self, "motion", (1, COUNT), "interval")
        _require_positive(self, "motion", "bound", "decay")
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
class ReadoutConfig:
    """How landed flows become the output surface.

    Attributes:
        scatter: ``bilinear`` (positions have a gradient) or ``nearest``.
        weighting: Of flows that share a cell: ``softmax`` of energy, distance and
            age, or ``importance``.
        faces: ``merged``: both faces are read as one surface; ``separate``: as two,
            and the choice of face has a gradient.
        proximity_weight: Importance of having been near the plane.
        path_length_weight: Importance of age.
        safe_distance: Distances below it count as it in the importance.
    """

    scatter: str = "bilinear"
    weighting: str = "softmax"
    faces: str = "merged"
    proximity_weight: float = 0.7
    path_length_weight: float = 0.3
    safe_distance: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        scatters = ("bilinear", "nearest")
        require_choice(self.scatter, "lattice.readout.scatter", scatters)
        weightings = ("softmax", "importance")
        require_choice(self.weighting, "lattice.readout.weighting", weightings)
        faces = ("merged", "separate")
        require_choice(self.faces, "lattice.readout.faces", faces)
        weights = ("proximity_weight", "path_length_weight")
        _require_within(self, "readout", (0, LARGE), *weights)
        _require_positive(self, "readout", "safe_distance")
        require(
            self.proximity_weight + self.path_length_weight > 0,
            "lattice.readout.proximity_weight",
            "positive when lattice.readout.path_length_weight is 0",
            self.proximity_weight,
        )

    @property
    def is_split(self) -> bool:
        """Whether the faces are read as two surfaces."""
        return self.faces == "separate"


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
        _require_within(self, "noise", (0, LARGE), "sigma")
        _require_within(self, "noise", (0, COUNT), "steps")


@dataclass
class EndsConfig:
    """Mapper and collector.

    Attributes:
        kind: ``mlp``: a stack of layers beside a linear map, each; ``linear``: a
            linear map alone; ``fixed``: an orthogonal map that never trains;
            ``divided``: the same, but each face is read on its own half of the cube.
        overlap: Columns in the middle of which divided ends read one half of the
            numbers on the near face and the other on the far one; even.
        shift: Columns by which they read the far face further to the left.
        width_cap: Most hidden units of either stack.
        dropout: Rate of the dropouts of the stacks; half of it on the layer nearest
            the surface.
    """

    kind: str = "mlp"
    overlap: int = 4
    shift: int = 1
    width_cap: int = 4096
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.kind, "lattice.ends.kind", ("mlp", "linear", "fixed", "divided"))
        _require_within(self, "ends", (1, WIDTH), "width_cap")
        require_share(self.dropout, "lattice.ends.dropout")


@dataclass
class AdjointConfig:
    """How the loop over the steps is differentiated.

    Attributes:
        way: ``graph``: one graph of all steps. ``stepwise``: each step is computed
            again in the backward pass, a fraction of the memory for a third more
            work.
        truncate_every: Cut the recurrence's gradient every so many steps; 0 = never.
    """

    way: str = "graph"
    truncate_every: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.way, "lattice.adjoint.way", ("graph", "stepwise"))
        _require_within(self, "adjoint", (0, COUNT), "truncate_every")


@dataclass
class LatticeConfig:
    """One cube, the carrier that moves its flows, and how both are trained."""

    cube: CubeConfig = field(default_factory=CubeConfig)
    spawn: SpawnConfig = field(default_factory=SpawnConfig)
    carrier: CarrierConfig = field(default_factory=CarrierConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    ends: EndsConfig = field(default_factory=EndsConfig)
    adjoint: AdjointConfig = field(default_factory=AdjointConfig)

    def __post_init__(self) -> None:
        """Check the rules that span groups."""
        require(
            self.cube.is_dual or not self.readout.is_split,
            "lattice.cube.output_planes",
            "dual with lattice.readout.faces=separate",
            self.cube.output_planes,
        )
        require(
            self.slots <= self.cube.max_active_flows,
            "lattice.cube.max_active_flows",
            f">= {self.slots}, the flow slots of one sample",
            self.cube.max_active_flows,
        )

    @property
    def surface_size(self) -> int:
        """Cells of one face, S = W * H."""
        return self.cube.surface_size

    @property
    def slots(self) -> int:
        """Flow slots of one sample, F: one per cell and the spawn budget."""
        return self.cube.surface_size + self.spawn.slots

    @property
    def most_samples(self) -> int:
        """Samples that may travel together: what ``cube.max_active_flows`` allows."""
        return self.cube.max_active_flows // self.slots

    @property
    def total_steps(self) -> int:
        """Propagation steps T."""
        return self.cube.total_steps


def _require_within(
    group: object, place: str, bounds: tuple[int, float], *names: str
) -> None:
    """Refuse values of a group outside the bounds, both of which are allowed."""
    for name in names:
        require_range(getattr(group, name), f"lattice.{place}.{name}", *bounds)


def _require_positive(group: object, place: str, *names: str) -> None:
    """Refuse values of a group that are 0 or less."""
    for name in names:
        value, key = getattr(group, name), f"lattice.{place}.{name}"
        require_range(value, key, 0, LARGE, is_open=True)

"""Config of the energy lattice: types, ranges, units.

Lengths are in normalized units unless a field says cells: the cube spans [-1, 1] on
every axis, so one unit is half the cube. The default of every setting stands here and
nowhere else; a preset holds only what differs.
"""

import dataclasses
import math
from dataclasses import dataclass

from energyflow_mlx.config.checks import (
    COUNT,
    LARGE,
    WIDTH,
    require,
    require_choice,
    require_share,
)
from energyflow_mlx.config.flows import (
    EDGE,
    CarrierConfig,
    FieldConfig,
    MotionConfig,
    NoiseConfig,
    SpawnConfig,
    require_positive,
    require_within,
)


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
        require_within(self, "cube", (2, EDGE), "width", "height")
        require_within(self, "cube", (1, EDGE), "depth")
        require_within(self, "cube", (1, COUNT), "max_active_flows")
        require_within(self, "cube", (0, EDGE), "steps")
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
class ReadoutConfig:
    """How landed flows become the output surface.

    Attributes:
        scatter: ``bilinear`` (positions have a gradient) or ``nearest``.
        weighting: Of flows that share a cell: ``softmax`` of energy, distance and
            age, or ``importance``.
        faces: ``merged``: both faces are read as one surface; ``separate``: as two;
            ``signed``: as one on which the far face counts for and the near face
            against, by the size of the energies. With the last two the choice of face
            has a gradient.
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
        faces = ("merged", "separate", "signed")
        require_choice(self.faces, "lattice.readout.faces", faces)
        weights = ("proximity_weight", "path_length_weight")
        require_within(self, "readout", (0, LARGE), *weights)
        require_positive(self, "readout", "safe_distance")
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

    @property
    def tells_faces_apart(self) -> bool:
        """Whether the face on which a flow lands changes what is read."""
        return self.faces != "merged"


@dataclass
class EndsConfig:
    """Mapper and collector.

    Attributes:
        kind: ``mlp``: a stack of layers beside a linear map, each; ``linear``: a
            linear map alone; ``fixed``: an orthogonal map that never trains;
            ``divided``: the same, but each face is read on columns of its own.
        near: Share of the columns, from the left, on which divided ends read the near
            face.
        far: Share of them, from the right, on which they read the far face; of columns
            in both they read one half of the numbers on either face.
        shift: Columns by which they read the far face further to the left.
        width_cap: Most hidden units of either stack.
        dropout: Rate of the dropouts of the stacks; half of it on the layer nearest
            the surface.
    """

    kind: str = "mlp"
    near: float = 0.9
    far: float = 0.25
    shift: int = 1
    width_cap: int = 4096
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(
            self.kind, "lattice.ends.kind", ("mlp", "linear", "fixed", "divided")
        )
        require_within(self, "ends", (1, WIDTH), "width_cap")
        require_within(self, "ends", (0, 1), "near", "far")
        require_within(self, "ends", (0, EDGE), "shift")
        require_share(self.dropout, "lattice.ends.dropout")

    def divide(self, width: int) -> tuple[int, int]:
        """Columns, of so many, that divided ends read on the near and the far face."""
        return round(self.near * width), round(self.far * width)


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
        require_within(self, "adjoint", (0, COUNT), "truncate_every")


@dataclass
class LatticeConfig:
    """One cube, the carrier that moves its flows, and how both are trained."""

    cube: CubeConfig = dataclasses.field(default_factory=CubeConfig)
    spawn: SpawnConfig = dataclasses.field(default_factory=SpawnConfig)
    carrier: CarrierConfig = dataclasses.field(default_factory=CarrierConfig)
    motion: MotionConfig = dataclasses.field(default_factory=MotionConfig)
    readout: ReadoutConfig = dataclasses.field(default_factory=ReadoutConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    ends: EndsConfig = dataclasses.field(default_factory=EndsConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    adjoint: AdjointConfig = dataclasses.field(default_factory=AdjointConfig)

    def __post_init__(self) -> None:
        """Check the rules that span groups."""
        require(
            self.cube.is_dual or not self.readout.tells_faces_apart,
            "lattice.cube.output_planes",
            f"dual with lattice.readout.faces={self.readout.faces}",
            self.cube.output_planes,
        )
        if self.ends.kind == "divided":
            self._check_division()
        require(
            self.slots <= self.cube.max_active_flows,
            "lattice.cube.max_active_flows",
            f">= {self.slots}, the flow slots of one sample",
            self.cube.max_active_flows,
        )

    def _check_division(self) -> None:
        """Refuse parts that do not fit the cube."""
        key, faces = "lattice.readout.faces", self.readout.faces
        apart = "separate with lattice.ends.kind=divided"
        require(self.readout.is_split, key, apart, faces)
        width = self.cube.width
        near, far = self.ends.divide(width)
        unread = f">= {1 - near / width:g}, so that every column is read"
        require(near + far >= width, "lattice.ends.far", unread, self.ends.far)
        left, shift = width - far, self.ends.shift
        expected = f"<= {left}, the columns left of the far part"
        require(shift <= left, "lattice.ends.shift", expected, shift)

    @property
    def surface_size(self) -> int:
        """Cells of one face, S = W * H."""
        return self.cube.surface_size

    @property
    def spare_slots(self) -> int:
        """Slots for the children of one sample, M."""
        return self.spawn.slots_of(self.cube.surface_size)

    @property
    def slots(self) -> int:
        """Flow slots of one sample, F: one per cell and those for children."""
        return self.cube.surface_size + self.spare_slots

    @property
    def most_samples(self) -> int:
        """Samples that may travel together: what ``cube.max_active_flows`` allows."""
        return self.cube.max_active_flows // self.slots

    @property
    def total_steps(self) -> int:
        """Propagation steps T."""
        return self.cube.total_steps

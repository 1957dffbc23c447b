"""Config of the energy lattice: types, ranges, units.

Lengths are in normalised units unless a field says cells: the cube spans [-1, 1] on
every axis, so one unit is half the cube.
"""

import math
from dataclasses import dataclass

from energyflow_mlx.config.checks import require, require_choice, require_share


@dataclass
class LatticeConfig:
    """One cube, the carrier that moves its flows, and how both are trained.

    Attributes:
        width: Cells along x, W.
        height: Cells along y, H.
        depth: Cells along z, D; there are D + 1 levels.
        steps: Propagation steps; 0 = ``max(2, ceil(depth / 2))``.
        output_planes: ``dual``: both faces of z receive flows; ``far``: only z = +1.
        max_active_flows: Most flow slots of a whole batch; more are refused.
        reflect: Fold a flow that crosses x or y back into the cube; otherwise it
            stops at the border.
        spawn_slots: Slots for children per sample; 0 = no spawning.
        max_spawn_per_step: Most children of one parent in one step.
        spawn_threshold: A move of length m makes ``floor(m / threshold) - 1``
            children.
        carrier_hidden: GRU channels.
        carrier_layers: GRU layers.
        neuron_hidden: Channels inside the shared neuron.
        neuron_features: Features the neuron hands to the carrier.
        gru_float32: Run the GRU in float32 whatever the precision of the weights.
        z_drift: Carry every flow to a face within the steps, without parameters.
        face_tie: A flow takes the face its first z output points to if that output
            is longer than this share of the bound, else the face of its cell's
            colour on a chessboard.
        displacement_bound: Longest learned move per axis and step.
        displacement_scale: Factor on the head's output at the start of training.
        displacement_scale_min: The factor it decays to; evaluation uses it.
        displacement_warmup: Training steps before the decay.
        displacement_decay: Factor per interval.
        displacement_interval: Training steps per interval.
        displacement_start: The head's last layer at the start of training: ``zero``
            (straight paths) or ``xavier`` (Xavier-normal, flows stray at once).
        freeze_displacement: Learn no moves: no gradient passes the head's output
            (ablation).
        energy_update: ``residual``: ``e + tanh(head) / steps``; ``replace``:
            ``tanh(head)``.
        scatter: ``bilinear`` (positions have a gradient) or ``nearest``.
        weighting: Of flows that share a cell: ``softmax`` of energy, distance and
            age, or ``importance``.
        proximity_weight: Importance of having been near the plane.
        path_length_weight: Importance of age.
        safe_distance: Distances below it count as it in the importance.
        exploration_noise: Standard deviation of the noise on positions, per step, at
            the start of training; never in evaluation.
        exploration_steps: Training steps until it has fallen to 0; 0 = constant.
        exploration_noise_on_z: Whether the noise moves flows along z too.
        mapper_width_cap: Most hidden units of the mapper and the collector.
        dropout: Rate in the mapper and the collector; half of it on the layer
            nearest the surface.
        checkpoint_steps: Recompute each step in the backward pass: a fraction of the
            memory for a third more work.
        truncate_every: Cut the recurrence's gradient every so many steps; 0 = never.
        convergence_threshold: Stop early, in inference, when this share of the flows
            has arrived; 0 = never stop early.
        convergence_min_steps: Steps before the first early stop.
        convergence_patience: Checks without progress before an early stop.
        convergence_every: Steps between two checks; each check evaluates the graph.
    """

    width: int = 20
    height: int = 20
    depth: int = 10
    steps: int = 0
    output_planes: str = "dual"
    max_active_flows: int = 100_000
    reflect: bool = True
    spawn_slots: int = 8
    max_spawn_per_step: int = 1
    spawn_threshold: float = 0.3
    carrier_hidden: int = 128
    carrier_layers: int = 2
    neuron_hidden: int = 32
    neuron_features: int = 64
    gru_float32: bool = True
    z_drift: bool = True
    face_tie: float = 0.1
    displacement_bound: float = 0.3
    displacement_scale: float = 2.0
    displacement_scale_min: float = 1.0
    displacement_warmup: int = 100
    displacement_decay: float = 0.9
    displacement_interval: int = 10
    displacement_start: str = "zero"
    freeze_displacement: bool = False
    energy_update: str = "residual"
    scatter: str = "bilinear"
    weighting: str = "softmax"
    proximity_weight: float = 0.7
    path_length_weight: float = 0.3
    safe_distance: float = 0.5
    exploration_noise: float = 0.0
    exploration_steps: int = 1000
    exploration_noise_on_z: bool = False
    mapper_width_cap: int = 4096
    dropout: float = 0.0
    checkpoint_steps: bool = False
    truncate_every: int = 0
    convergence_threshold: float = 0.0
    convergence_min_steps: int = 5
    convergence_patience: int = 10
    convergence_every: int = 4

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low in _LEAST.items():
            value = getattr(self, name)
            require(value >= low, f"lattice.{name}", f">= {low}", value)
        for name, choices in _CHOICES.items():
            require_choice(getattr(self, name), f"lattice.{name}", choices)
        for name in _POSITIVE:
            value = getattr(self, name)
            require(value > 0, f"lattice.{name}", "> 0", value)
        require_share(self.dropout, "lattice.dropout")
        require(
            self.displacement_bound <= 1,
            "lattice.displacement_bound",
            "<= 1, so that one fold brings a flow back",
            self.displacement_bound,
        )
        require(
            self.displacement_scale_min <= self.displacement_scale,
            "lattice.displacement_scale_min",
            f"<= lattice.displacement_scale = {self.displacement_scale}",
            self.displacement_scale_min,
        )
        for name in ("face_tie", "displacement_decay", "convergence_threshold"):
            value = getattr(self, name)
            require(value <= 1, f"lattice.{name}", "<= 1", value)
        require(
            self.proximity_weight + self.path_length_weight > 0,
            "lattice.proximity_weight",
            "positive when lattice.path_length_weight is 0",
            self.proximity_weight,
        )
        require(
            self.slots <= self.max_active_flows,
            "lattice.max_active_flows",
            f">= {self.slots}, the flow slots of one sample",
            self.max_active_flows,
        )

    @property
    def surface_size(self) -> int:
        """Cells of one face, S = W * H."""
        return self.width * self.height

    @property
    def slots(self) -> int:
        """Flow slots of one sample, F: one per cell and the spawn budget."""
        return self.surface_size + self.spawn_slots

    @property
    def total_steps(self) -> int:
        """Propagation steps T."""
        return self.steps or max(2, math.ceil(self.depth / 2))


_LEAST = {
    **dict.fromkeys(("width", "height"), 2),
    **dict.fromkeys(
        (
            "depth",
            "max_active_flows",
            "carrier_layers",
            "neuron_hidden",
            "neuron_features",
            "displacement_interval",
            "mapper_width_cap",
            "max_spawn_per_step",
            "convergence_min_steps",
            "convergence_patience",
            "convergence_every",
        ),
        1,
    ),
    # A quarter of the channels reads the position memory.
    "carrier_hidden": 4,
    **dict.fromkeys(
        (
            "steps",
            "spawn_slots",
            "face_tie",
            "displacement_scale_min",
            "displacement_warmup",
            "proximity_weight",
            "path_length_weight",
            "exploration_noise",
            "exploration_steps",
            "truncate_every",
            "convergence_threshold",
        ),
        0,
    ),
}
_POSITIVE = (
    "spawn_threshold",
    "displacement_bound",
    "displacement_decay",
    "safe_distance",
)
_CHOICES = {
    "output_planes": ("dual", "far"),
    "displacement_start": ("zero", "xavier"),
    "energy_update": ("residual", "replace"),
    "scatter": ("bilinear", "nearest"),
    "weighting": ("softmax", "importance"),
}

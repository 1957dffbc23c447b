"""Settings of run folders that an earlier version wrote, in today's keys.

``config.json`` carries the version of its keys. The first version had one ``task``, a
``trainer.ratio`` between two objectives, two learning rates and one flat group of loss
weights; what it trained is now said by ``objectives``. The second counted the slots for
children of flows, ``spawn.slots``; now they are so many for each cell.
"""

from typing import Any

from energyflow_mlx.config.checks import require, require_choice, require_whole
from energyflow_mlx.config.flows import EDGE
from energyflow_mlx.config.lattice import CubeConfig
from energyflow_mlx.runtime.received import require_type

VERSION = 3

_DISTANCE = ("cosine", "mse", "contrastive", "temperature")
# What shared the updates with reconstruction, by the former task.
_FIRST = {"ab": "distillation", "flow": "flow", "flow_text": "flow_text"}
_OWN = {
    "distillation": _DISTANCE,
    "reconstruction": ("label_smoothing", "student_ce", "latent_noise"),
    "flow": (*_DISTANCE, "surface"),
    "flow_text": (*_DISTANCE, "surface", "text", "label_smoothing"),
}

# Where the settings of run folders written with a flat lattice config stand now.
# ``checkpoint_steps`` was a boolean: true is ``stepwise``, false is ``graph``.
RENAMED = {
    "width": "cube.width",
    "height": "cube.height",
    "depth": "cube.depth",
    "steps": "cube.steps",
    "output_planes": "cube.output_planes",
    "max_active_flows": "cube.max_active_flows",
    "spawn_slots": "spawn.slots",  # of the second version
    "max_spawn_per_step": "spawn.max_per_step",
    "spawn_threshold": "spawn.threshold",
    "carrier_hidden": "carrier.hidden",
    "carrier_layers": "carrier.layers",
    "neuron_hidden": "carrier.neuron_hidden",
    "neuron_features": "carrier.neuron_features",
    "gru_float32": "carrier.gru_float32",
    "energy_update": "carrier.energy_update",
    "reflect": "motion.reflect",
    "z_drift": "motion.z_drift",
    "face_tie": "motion.face_tie",
    "displacement_bound": "motion.bound",
    "displacement_scale": "motion.scale",
    "displacement_scale_min": "motion.scale_min",
    "displacement_warmup": "motion.warmup",
    "displacement_decay": "motion.decay",
    "displacement_interval": "motion.interval",
    "displacement_start": "motion.start",
    "freeze_displacement": "motion.freeze",
    "scatter": "readout.scatter",
    "weighting": "readout.weighting",
    "proximity_weight": "readout.proximity_weight",
    "path_length_weight": "readout.path_length_weight",
    "safe_distance": "readout.safe_distance",
    "exploration_noise": "noise.sigma",
    "exploration_steps": "noise.steps",
    "exploration_noise_on_z": "noise.on_z",
    "mapper_width_cap": "ends.width_cap",
    "dropout": "ends.dropout",
    "checkpoint_steps": "adjoint.way",
    "truncate_every": "adjoint.truncate_every",
}
# Settings of the early stop, which such run folders name too; nothing reads them.
REMOVED = (
    "convergence_threshold",
    "convergence_min_steps",
    "convergence_patience",
    "convergence_every",
)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with the keys of today; those of today come back as they are.

    Args:
        values: What ``config.json`` holds.

    Raises:
        InputError: They are of a later version, or of none.
    """
    version = values.get("version", 1)
    require(version in (1, 2, VERSION), "version", f"2, {VERSION} or absent", version)
    plain = {key: value for key, value in values.items() if key != "version"}
    if version == 1:
        plain = _from_first(plain)
    return plain if version == VERSION else _from_second(plain)


def _from_first(values: dict[str, Any]) -> dict[str, Any]:
    new = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for name in ("loss", "optimizer", "trainer"):
        require_type(new.get(name, {}), dict[str, Any], f"[config] {name}")
    loss, optimizer = new.pop("loss", {}), new.get("optimizer", {})
    trainer, task = new.get("trainer", {}), str(new.pop("task", "ab"))
    require_choice(task, "task", tuple(_FIRST))
    first, ratio = _FIRST[task], trainer.pop("ratio", 0.5)
    require_type(ratio, float, "[config] trainer.ratio")
    require(0 <= ratio <= 1, "trainer.ratio", "in [0, 1]", ratio)
    lr, decoder_lr = optimizer.pop("lr", 1e-3), optimizer.pop("decoder_lr", 1e-3)
    shares = {first: (ratio, lr), "reconstruction": (1.0 - ratio, decoder_lr)}
    new["objectives"] = {name: None for name in _OWN} | {
        name: {"share": share / max(ratio, 1.0 - ratio), "lr": rate}
        | {k: loss[k] for k in _OWN[name] if k in loss}
        for name, (share, rate) in shares.items()
        if share > 0
    }
    new["token_rows"] = {
        "lazy": optimizer.pop("lazy_rows", True),
        "candidates": loss.get("candidates", 0),
    }
    if isinstance(new.get("lattice"), dict):
        new["lattice"] = _nested(new["lattice"])
    return new


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The lattice's settings in their groups; those that are gone are left out."""
    groups: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = RENAMED.get(key, "").partition(".")
        if key == "checkpoint_steps":
            value = "stepwise" if value else "graph"
        if name:
            groups.setdefault(group, {})[name] = value
    return groups


def _from_second(values: dict[str, Any]) -> dict[str, Any]:
    lattice = values.get("lattice")
    groups = lattice if isinstance(lattice, dict) else {}
    spawn, cube = groups.get("spawn"), groups.get("cube", {})
    if not (isinstance(spawn, dict) and "slots" in spawn and isinstance(cube, dict)):
        return values
    cells, default = 1, CubeConfig()
    for name in ("width", "height"):
        edge = cube.get(name, getattr(default, name))
        require_whole(edge, f"lattice.cube.{name}", 2, EDGE)
        cells *= edge
    require_whole(spawn["slots"], "lattice.spawn.slots", 0)
    kept = {key: value for key, value in spawn.items() if key != "slots"}
    kept["per_cell"] = spawn["slots"] / cells
    return values | {"lattice": groups | {"spawn": kept}}

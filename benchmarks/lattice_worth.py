"""Does the lattice work for its living? What a trained run loses without its flows.

    python benchmarks/lattice_worth.py --vectors TRAIN.npy --held-out VAL.npy
        [--settings fixed carried working linear mlp] [--updates 40] [--output FILE]

Each setting is an ordinary ``+experiment=flow`` with ``lattice=debug``, trained twice:
as it is, and with frozen moves. Then the weights of the first are measured on held-out
vectors with parts of the lattice taken away:

bypass      Energies rest where they were laid out, each on its cell's own face.
straight    The carrier changes energies, but no flow moves aside or chooses a face.
swapped     Every flow lands on the other face.
births off  No slots for children.

The settings differ in how much the two ends may do (``lattice.ends.kind``), in whether
the faces are read apart, and in the start of the moves. ``carried`` has fixed ends and
asks for the surface one column further, which only flows that move can give.

Refuted for a setting when it loses less than 0.05 without its flows.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lattice_presets  # isort: skip  before mlx

import mlx.core as mx
import numpy as np

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config, FlowConfig, objectives_type
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.state import FlowState, land, launch

_BIRTHS = ("spawn.unit=cells", "spawn.threshold=0.1", "spawn.slots=100")
SETTINGS: dict[str, tuple[str, ...]] = {
    "fixed": ("ends.kind=fixed", "readout.faces=separate"),
    "carried": ("ends.kind=fixed",),
    "working": (
        "ends.kind=linear",
        "readout.faces=separate",
        "motion.start=xavier",
        *_BIRTHS,
    ),
    "linear": ("ends.kind=linear",),
    "mlp": (),
}
REPORTED = ("born", "child_cells", "sideways_cells", "path_cells")
REPORTED += ("face_entropy", "face_choice")
_AT_ONCE = 16  # vectors


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="[N, E] .npy")
    parser.add_argument("--held-out", type=Path, required=True, help="[M, E] .npy")
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def configure(args: argparse.Namespace, setting: str, folder: Path) -> Config:
    """``+experiment=flow`` on vectors, with the setting's overrides."""
    # A short run does not reach the end of the schedule of the moves' scale.
    changes = ("motion.scale=1.0", *SETTINGS[setting])
    config = Config(name=setting, seed=args.seed, share="none")
    config.objectives = objectives_type()(flow=FlowConfig(lr=args.lr))
    config.lattice = lattice_presets.read_preset(args.preset, changes)
    config.data.train = [str(folder / "train.npy")]
    config.data.val = [str(folder / "val.npy")]
    config.data.pairs, config.data.val_limit = True, 160
    config.optimizer.weight_decay = 1e-5
    trainer = config.trainer
    trainer.micro_batch, trainer.decode_samples = args.batch, 0
    trainer.max_steps = trainer.validate_every = args.updates
    trainer.log_every, trainer.keep = args.updates, 1
    return config


def write_pairs(args: argparse.Namespace, setting: str, folder: Path) -> None:
    """Source and target: the vector itself, or its surface moved by a column."""
    lattice: EnergyLattice | None = None
    if setting == "carried":
        config = configure(args, setting, folder)
        parts = parts_of(build_objectives(config))
        dim = np.load(args.vectors, mmap_mode="r").shape[1]
        lattice = build_model(config, parts, 0, dim).lattice
    for path, name in ((args.vectors, "train"), (args.held_out, "val")):
        rows = np.load(path).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        goals = rows
        if lattice:
            surface = lattice.mapper(mx.array(rows))
            moved = mx.pad(surface[..., :-1], ((0, 0), (0, 0), (1, 0)))
            goals = np.array(lattice.collector(moved))
        np.save(folder / f"{name}.npy", np.concatenate([rows, goals], axis=1))


def bypass(lattice: EnergyLattice, vectors: mx.array) -> mx.array:
    """What the collector reads off flows that never left their cells."""
    surface = lattice.mapper(vectors)
    state = launch(lattice.config, surface)
    return lattice.finish(surface, on_face(lattice, state, state.face), None).vector


def swapped(lattice: EnergyLattice, vectors: mx.array) -> mx.array:
    """What it reads when every flow lands on the other face."""
    output = lattice(vectors)
    flows = on_face(lattice, output.flows, -output.flows.position[..., 2])
    return lattice.finish(output.surface_in, flows, None).vector


def on_face(lattice: EnergyLattice, state: FlowState, face: mx.array) -> FlowState:
    """Flows at rest on the faces ``[B, F]``."""
    sides = state.position[..., :2]
    position = mx.concatenate([sides, face[..., None]], axis=-1)
    rest = state._replace(position=position, alive=mx.zeros_like(state.alive))
    return land(lattice.config, rest)


def without_births(lattice: EnergyLattice) -> EnergyLattice:
    """The same weights in a lattice that has no slots for children."""
    config = copy.deepcopy(lattice.config)
    config.spawn.slots = 0
    barren = EnergyLattice(config, lattice.embedding_dim)
    barren.update(lattice.parameters())
    barren.eval()
    return barren


def ablate(lattice: EnergyLattice, pairs: np.ndarray) -> dict[str, float]:
    """Mean cosine to the goals, whole and with parts taken away.

    Args:
        lattice: A trained lattice in evaluation mode.
        pairs: Sources and goals, ``[N, 2E]``.
    """
    barren = without_births(lattice)
    forms: dict[str, Callable[[mx.array], mx.array]] = {
        "whole": lambda v: lattice(v).vector,
        "bypass": lambda v: bypass(lattice, v),
        "straight": lambda v: lattice(v, displacement_scale=0.0).vector,
        "swapped": lambda v: swapped(lattice, v),
        "births off": lambda v: barren(v).vector,
    }
    sources, goals = np.split(pairs, 2, axis=1)
    found = {}
    for name, form in forms.items():
        batches = [
            np.array(form(mx.array(sources[at : at + _AT_ONCE])))
            for at in range(0, len(sources), _AT_ONCE)
        ]
        found[name] = float(np.mean(cosine_rows(np.concatenate(batches), goals)))
    return found


def measure(args: argparse.Namespace, setting: str) -> dict[str, Any]:
    """Train a setting with free and with frozen moves, and take parts away."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pairs(args, setting, folder)
        config = configure(args, setting, folder)
        config.run.dir = str(folder / "free")
        free = run(config)
        pairs = np.load(folder / "val.npy")[: config.data.val_limit]
        found = ablate(load(config.run.dir).model.lattice, pairs)
        config = configure(args, setting, folder)
        config.lattice.motion.freeze, config.run.dir = True, str(folder / "frozen")
        found["trained frozen"] = run(config)["final"]["cosine"]
    statistics = {name: free["final"][f"flow_{name}"] for name in REPORTED}
    return {"setting": setting, "cosine": found, "statistics": statistics}


def main() -> None:
    """Measure the settings one after another; each adds its lines to the output."""
    args = parse()
    record: dict[str, Any] = {
        "benchmark": "lattice_worth",
        "command": " ".join(["python", *sys.argv]),
        "device": str(mx.default_device()),
        "mlx": mx.__version__,
        "changes": {name: SETTINGS[name] for name in args.settings},
        "runs": [],
    }
    for setting in args.settings:
        record["runs"].append(measure(args, setting))
        print(json.dumps(record["runs"][-1]), flush=True)
        if args.output:
            args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

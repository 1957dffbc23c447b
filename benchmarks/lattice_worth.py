"""Does the lattice work for its living? What a trained run loses without its flows.

    python benchmarks/lattice_worth.py --vectors TRAIN.npy --held-out VAL.npy
        [--settings divided signed ...] [--seeds 0 1 2] [--updates 40] [--output FILE]
        [--numbers 96 --changes cube.height=5 carrier.hidden=64]  a small cube

Each setting is trained as it is, with frozen moves, and without births where it has
any. Then the weights of the
first are measured on held-out vectors with parts of the lattice taken away:

bypass      Energies rest where they were laid out, each on its cell's own face.
straight    The carrier changes energies, but no flow moves aside or chooses a face.
swapped     Every flow lands on the other face.
births off  No slots for children.
fresh       The carrier as it was before training; the ends as they have become.

``divided`` is ``+experiment=flow`` as it stands, with a preset of the lattice. The
others train likewise and have a lattice of their own. They differ in how much the two
ends may do (``lattice.ends.kind``), in how the faces are read, and in the start of the
moves. ``carried`` has fixed ends and asks for the surface one column further, which
only flows that move can give.

Refuted for a setting when it loses less than 0.05 without its flows, and for
``divided`` when the whole is below 0.97, ``bypass`` or ``swapped`` above 0.80, or
``births off`` not lower than the whole by more than the spread over the seeds.
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
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.model import build_model
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.build.run import run
from energyflow_mlx.config import Config
from energyflow_mlx.config.store import CONF_FOLDER, register
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.state import FlowState, land, launch

_BIRTHS = ("spawn.unit=cells", "spawn.threshold=0.1", "spawn.per_cell=0.25")
EXPERIMENT = "divided"
# Changes of a preset, of settings that have not the experiment's lattice.
OTHERS: dict[str, tuple[str, ...]] = {
    "signed": (
        "ends.kind=fixed",
        "readout.faces=signed",
        "motion.start=xavier",
        "spawn.per_cell=0",
    ),
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
REPORTED = ("meetings", "born", "child_cells", "sideways_cells", "path_cells")
REPORTED += ("face_entropy", "face_choice")
_AT_ONCE = 16  # vectors


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="[N, E] .npy")
    parser.add_argument("--held-out", type=Path, required=True, help="[M, E] .npy")
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--changes", nargs="*", default=[], help="group.key=value")
    parser.add_argument("--numbers", type=int, help="only the first of each vector")
    parser.add_argument("--settings", nargs="*", default=[EXPERIMENT, *OTHERS])
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--words", nargs="*", default=[], help="as train takes them")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    for name, left_out in (("--no-frozen", "frozen"), ("--no-barren", "barren")):
        parser.add_argument(name, dest=left_out, action="store_false")
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def configure(
    args: argparse.Namespace, setting: str, seed: int, folder: Path
) -> Config:
    """``+experiment=flow`` on vectors, with the lattice of the setting."""
    updates = args.updates
    words = [
        *("+experiment=flow", f"lattice={args.preset}", f"seed={seed}"),
        *(f"data.train={folder / 'train.npy'}", f"data.val={folder / 'val.npy'}"),
        *("data.pairs=true", "data.val_limit=160", "trainer.keep=1"),
        *(f"trainer.micro_batch={args.batch}", f"trainer.max_steps={updates}"),
        *(f"trainer.validate_every={updates}", f"trainer.log_every={updates}"),
        *(f"lattice.{change}" for change in args.changes),
        *args.words,
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_FOLDER)):
        config = OmegaConf.to_object(compose("config", overrides=words))
    assert isinstance(config, Config) and config.objectives.flow
    if setting != EXPERIMENT:
        # A short run does not reach the end of the schedule of the moves' scale.
        changes = ("motion.scale=1.0", *OTHERS[setting], *args.changes)
        config.lattice = lattice_presets.read_preset(args.preset, changes)
        config.objectives.flow.births = 0.0
    return config


def write_pairs(
    args: argparse.Namespace, setting: str, seed: int, folder: Path
) -> None:
    """Source and target: the vector itself, or its surface moved by a column."""
    lattice: EnergyLattice | None = None
    if setting == "carried":
        dim = np.load(args.vectors, mmap_mode="r")[0, : args.numbers].size
        lattice = untrained(configure(args, setting, seed, folder), dim)
    for path, name in ((args.vectors, "train"), (args.held_out, "val")):
        rows = np.load(path)[:, : args.numbers].astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        goals = rows
        if lattice:
            surface = lattice.mapper(mx.array(rows))
            moved = mx.pad(surface[..., :-1], ((0, 0), (0, 0), (1, 0)))
            goals = np.array(lattice.collector(moved))
        np.save(folder / f"{name}.npy", np.concatenate([rows, goals], axis=1))


def untrained(config: Config, dim: int) -> EnergyLattice:
    """The lattice that a run of this configuration begins with."""
    lattice = build_model(config, parts_of(build_objectives(config)), 0, dim).lattice
    lattice.eval()
    return lattice


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
    config.spawn.per_cell = 0
    barren = EnergyLattice(config, lattice.embedding_dim)
    barren.update(lattice.parameters())
    barren.eval()
    return barren


def with_fresh_carrier(lattice: EnergyLattice, first: EnergyLattice) -> EnergyLattice:
    """The ends of one lattice around the flows of another."""
    mixed = EnergyLattice(lattice.config, lattice.embedding_dim)
    mixed.update(lattice.parameters())
    mixed.flow.update(first.flow.parameters())
    mixed.eval()
    return mixed


def ablate(
    lattice: EnergyLattice, first: EnergyLattice, pairs: np.ndarray
) -> dict[str, float]:
    """Mean cosine to the goals, whole and with parts taken away.

    Args:
        lattice: A trained lattice in evaluation mode.
        first: The same before training.
        pairs: Sources and goals, ``[N, 2E]``.
    """
    barren, fresh = without_births(lattice), with_fresh_carrier(lattice, first)
    forms: dict[str, Callable[[mx.array], mx.array]] = {
        "whole": lambda v: lattice(v).vector,
        "bypass": lambda v: bypass(lattice, v),
        "straight": lambda v: lattice(v, displacement_scale=0.0).vector,
        "swapped": lambda v: swapped(lattice, v),
        "births off": lambda v: barren(v).vector,
        "fresh": lambda v: fresh(v).vector,
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


def measure(args: argparse.Namespace, setting: str, seed: int) -> dict[str, Any]:
    """Train a setting with a seed, whole and with parts frozen; take parts away."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pairs(args, setting, seed, folder)
        config = configure(args, setting, seed, folder)
        config.run.dir = str(folder / "free")
        free = run(config)
        pairs = np.load(folder / "val.npy")[: config.data.val_limit]
        first = untrained(config, pairs.shape[1] // 2)
        found = ablate(load(config.run.dir).model.lattice, first, pairs)
        if args.frozen:
            config = configure(args, setting, seed, folder)
            config.lattice.motion.freeze = True
            found["trained frozen"] = final_cosine(config, folder / "frozen")
        if args.barren and config.lattice.spawn.is_learned:
            config = configure(args, setting, seed, folder)
            config.lattice.spawn.per_cell = 0
            found["trained without births"] = final_cosine(config, folder / "barren")
    statistics = {name: free["final"][f"flow_{name}"] for name in REPORTED}
    return {
        "setting": setting,
        "seed": seed,
        "seconds": free["seconds"],
        "cosine": found,
        "statistics": statistics,
    }


def final_cosine(config: Config, folder: Path) -> float:
    """Cosine on held-out vectors of a run in this folder."""
    config.run.dir = str(folder)
    cosine: float = run(config)["final"]["cosine"]
    return cosine


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and greatest cosine of each setting over its seeds."""
    lines = []
    for setting in dict.fromkeys(one["setting"] for one in runs):
        found = [one["cosine"] for one in runs if one["setting"] == setting]
        columns = {
            name: [float(f(each)) for f in (np.mean, np.min, np.max)]
            for name in found[0]
            if (each := [one[name] for one in found if name in one])
        }
        lines.append({"setting": setting, "seeds": len(found), "cosine": columns})
    return lines


def main() -> None:
    """Measure the settings one after another; each adds its lines to the output."""
    register()
    args = parse()
    record: dict[str, Any] = {
        "benchmark": "lattice_worth",
        "command": " ".join(["python", *sys.argv]),
        "device": str(mx.default_device()),
        "mlx": mx.__version__,
        "changes": {name: OTHERS.get(name, ()) for name in args.settings},
        "runs": [],
    }
    for setting in args.settings:
        for seed in args.seeds:
            record["runs"].append(measure(args, setting, seed))
            print(json.dumps(record["runs"][-1], allow_nan=False), flush=True)
            record["summary"] = summarize(record["runs"])
            if args.output:
                text = json.dumps(record, indent=1, allow_nan=False)
                args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Does the lattice beat a linear map and an MLP at a task that needs mixing?

    python benchmarks/lattice_pairs.py --pairs caption_pairs_train.jsonl.gz
        --held-out captions_val.txt.gz [--ways mlp linear ...] [--updates 100]
        [--seeds 0 1 2] [--output FILE]

The task: from the teacher's vector of a caption to that of another caption of the same
image. The first 20,000 pairs train, the next 1,000, of other images, choose (dev), and
the groups of five of the held-out captions, each with the next of its group, are read
once (test). Compared by the mean cosine of output and target:

identity  The source as it is.
linear    The best linear map: ridge regression in closed form on all training pairs,
          its penalty chosen on dev.
random    An MLP whose hidden layer, rectified, is drawn and never trained; what reads
          it and the source is solved in closed form. As many parameters as the largest
          small lattice.
lattice   The cube of ``lattice=debug``, a small carrier and two steps, in several ways.
MLP       For each way: an MLP with a linear map beside it, as many parameters, the
          same loss, updates, batches, learning rate and start.

Refuted when the lattice that dev prefers is not above the linear map, the random layer
and the MLP that dev prefers, on test.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lattice_presets  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from energyflow_mlx.config import FlowConfig, TeacherConfig
from energyflow_mlx.data.pairs import read_pairs
from energyflow_mlx.data.sources import read_texts
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.ends import NormedStack, isometry
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.teacher import cached_vectors, teacher_from
from energyflow_mlx.training.objectives.distillation import vector_distance

TRAINED, CHOOSING = 20_000, 1_000  # pairs
_GROUP = 5  # held-out captions of an image
_PENALTIES = (0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.4)
Features = Callable[[np.ndarray], np.ndarray]
_WARMUP, _BATCH = 20, 32  # updates, pairs of each
_RANDOM_UNITS = 424  # 473,000 parameters with the maps around them
_RANDOM_SCALE = 12.0  # makes them about as long as the source
_AT_ONCE = 50  # vectors that are measured together
_REPORTED = ("face_choice", "face_entropy", "sideways_cells")


@dataclass(frozen=True)
class Way:
    """One way to train lattice and MLP.

    Attributes:
        changes: Settings of the lattice beside the preset's.
        from_linear: Both start as the best linear map, and learn what to add to it.
        lr: Peak learning rate.
        keeps_linear: The linear map is kept as it is, and only what stands beside it
            learns: the flows, or the stack.
        by_sign: The collector starts as the best map for flows that bring positive
            energy to the far face and negative to the near one: so they may learn to.
        solves: After the training the last linear map, collector or output layer, is
            the best for the training pairs, in closed form.
        loss: Weights of the terms of the loss.
    """

    changes: tuple[str, ...] = ()
    from_linear: bool = False
    lr: float = 1e-3
    keeps_linear: bool = False
    by_sign: bool = False
    solves: bool = False
    loss: FlowConfig = field(default_factory=FlowConfig)


# A flow sees no other flow: what it makes of its own energy needs no large carrier.
_SMALL = ("carrier.hidden=32", "carrier.layers=1", "carrier.neuron_features=16")
_LINEAR = ("ends.kind=linear", "cube.steps=2", *_SMALL)
_APART = ("readout.faces=separate",)
_KEPT = Way(_LINEAR, from_linear=True, keeps_linear=True)
_CHOOSING = (*_LINEAR, *_APART, "motion.start=xavier", "motion.face_tie=0.0")
WAYS = {
    "mlp ends": Way(("cube.steps=2", *_SMALL)),
    "linear ends": Way(_LINEAR, lr=3e-3),
    "fixed ends": Way(("ends.kind=fixed", *_APART, "cube.steps=2", *_SMALL), lr=3e-3),
    "from linear": Way(_LINEAR, from_linear=True, lr=1e-4),
    "flows alone": _KEPT,
    "cosine alone": replace(_KEPT, loss=FlowConfig(mse=0.0)),
    "random moves": replace(_KEPT, changes=(*_LINEAR, "motion.start=xavier")),
    "faces": replace(_KEPT, changes=_CHOOSING, lr=3e-3, solves=True),
    "faces by sign": replace(
        _KEPT, changes=_CHOOSING, lr=3e-3, solves=True, by_sign=True
    ),
}


@dataclass(frozen=True)
class Pairs:
    """Unit vectors of sources and targets, ``[N, E]`` each."""

    sources: np.ndarray
    targets: np.ndarray

    def cosine(self, outputs: np.ndarray) -> float:
        """Mean cosine of outputs to the targets."""
        return float(np.mean(cosine_rows(outputs, self.targets)))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help=".jsonl or .jsonl.gz")
    parser.add_argument("--held-out", type=Path, required=True, help="groups of five")
    parser.add_argument("--cache", type=Path, help="folder of the teacher's vectors")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def read(args: argparse.Namespace) -> tuple[Pairs, Pairs, Pairs]:
    """Training, choosing and test pairs as the teacher's vectors."""
    pairs = read_pairs(args.pairs)
    firsts, seconds = (side[: TRAINED + CHOOSING] for side in pairs)
    held_out = read_texts(args.held_out)
    known = sorted({*firsts, *seconds, *held_out})
    teacher = teacher_from(TeacherConfig())
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        found = np.array(cached_vectors(teacher, known, folder, batch_size=64))
    row = {text: number for number, text in enumerate(known)}
    source, target = (found[[row[t] for t in side]] for side in (firsts, seconds))
    last = found[[row[text] for text in held_out]]
    numbers = np.arange(len(last))
    following = numbers // _GROUP * _GROUP + (numbers + 1) % _GROUP
    return (
        Pairs(source[:TRAINED], target[:TRAINED]),
        Pairs(source[TRAINED:], target[TRAINED:]),
        Pairs(last, last[following]),
    )


def best_linear_map(
    train: Pairs, choosing: Pairs, features: Features = lambda x: x
) -> tuple[np.ndarray, float]:
    """Ridge regression of targets on features of the sources.

    Args:
        train: What it is fitted to.
        choosing: What chooses the penalty.
        features: ``[N, E]`` to ``[N, K]``.

    Returns:
        The map, ``[K, E]``, and the penalty over the mean of the squared features.
    """
    x, y = features(train.sources).astype(np.float64), train.targets.astype(np.float64)
    gram, cross = x.T @ x, x.T @ y
    unit = np.trace(gram) / len(gram)
    maps = {
        penalty: np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), cross)
        for penalty in _PENALTIES
    }
    shown = features(choosing.sources)
    best = max(maps, key=lambda p: choosing.cosine(shown @ maps[p]))
    return maps[best].astype(np.float32), best


def random_layer(seed: int, sets: Sequence[Pairs]) -> dict[str, float]:
    """Cosines of random rectified units and the source, read in closed form."""
    train, choosing, test = sets
    width = train.sources.shape[1]
    drawn = np.random.default_rng(seed).normal(size=(width, _RANDOM_UNITS))

    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.maximum(x @ drawn / _RANDOM_SCALE, 0)], axis=1)

    found, _ = best_linear_map(train, choosing, features)
    cosine = {"dev": choosing, "test": test}
    return {
        n: pairs.cosine(features(pairs.sources) @ found) for n, pairs in cosine.items()
    }


class Beside(nn.Module):
    """The MLP: ``stack(x) + direct x``, as the lattice's own ends have it."""

    def __init__(self, width: int, hidden: int) -> None:
        """Create it for vectors of ``width`` numbers with two hidden layers."""
        super().__init__()
        self.stack = NormedStack((width, hidden, hidden, width), (0.0, 0.0))
        last = self.stack.layers[-1]  # starts at nothing: the linear map is first
        last.weight, last.bias = mx.zeros_like(last.weight), mx.zeros_like(last.bias)
        self.direct = isometry(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """Vectors ``[B, E]`` for vectors ``[B, E]``."""
        return self.stack(x) + x @ self.direct.T

    def features(self, x: mx.array) -> mx.array:
        """What the last linear maps see: the last hidden layer, and the source."""
        hidden = x
        pairs = zip(self.stack.layers, self.stack.norms, strict=False)
        for layer, norm in pairs:
            hidden = norm(nn.gelu(layer(hidden)))
        return mx.concatenate([hidden, x], axis=1)


def build_lattice(
    way: Way, linear: np.ndarray, train: Pairs, choosing: Pairs
) -> EnergyLattice:
    """The lattice of a way; ``linear`` is the map that it may start as."""
    config = lattice_presets.read_preset("debug", way.changes)
    lattice = EnergyLattice(config, len(linear))
    if way.from_linear:
        mapper, collector = lattice.mapper, lattice.collector
        back = mx.array(linear).T @ mx.linalg.pinv(mapper.direct, stream=mx.cpu)
        faces = 2 if config.readout.is_split else 1
        collector.direct = mx.concatenate([back] * faces, axis=1)
        head = lattice.flow.carrier.energy_out  # energies stay, to begin with
        head.weight, head.bias = mx.zeros_like(head.weight), mx.zeros_like(head.bias)
    if way.by_sign:
        direct = np.array(lattice.mapper.direct)

        def faces(x: np.ndarray) -> np.ndarray:
            cells = x @ direct.T
            return np.concatenate([np.minimum(cells, 0), np.maximum(cells, 0)], axis=1)

        apart, _ = best_linear_map(train, choosing, faces)
        lattice.collector.direct = mx.array(apart.T)
    if way.keeps_linear:
        lattice.mapper.freeze()
        lattice.collector.freeze()
    return lattice


def build_mlp(way: Way, linear: np.ndarray, parameters: int) -> Beside:
    """An MLP of about so many parameters."""
    width = len(linear)
    spare = parameters - width * width - width  # for h^2 + (2 E + 6) h
    slope = width + 3
    mlp = Beside(width, round(math.sqrt(slope**2 + max(spare, 0)) - slope) or 1)
    if way.from_linear:
        mlp.direct = mx.array(linear).T
    if way.keeps_linear:
        mlp.freeze(keys="direct", recurse=False)
    return mlp


def count(model: nn.Module) -> int:
    """Numbers of a model, learned or not."""
    return sum(array.size for _, array in tree_flatten(model.parameters()))


def batches(updates: int, size: int, seed: int, train: Pairs) -> Iterator[list]:
    """The batches of a seed, equal for lattice and MLP."""
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        rows = rng.integers(0, len(train.sources), size)
        yield [mx.array(train.sources[rows]), mx.array(train.targets[rows])]


def train_model(
    args: argparse.Namespace, way: Way, model: nn.Module, given: Iterator[list]
) -> None:
    """Train in place: AdamW, warm-up, then a cosine."""
    through = outputs_of(model)
    optimizer = optim.AdamW(way.lr, weight_decay=1e-5, bias_correction=True)

    def loss(parameters: Any, x: mx.array, y: mx.array) -> mx.array:
        model.update(parameters)
        found = vector_distance(through(x), y, way.loss)
        return found.loss / found.count

    state = [model.state, optimizer.state]
    optimizer.init(model.trainable_parameters())

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        parameters = model.trainable_parameters()
        value, gradients = mx.value_and_grad(loss)(parameters, x, y)
        model.update(parameters)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        return value

    for number, batch in enumerate(given):
        done = number / args.updates
        warm = min(1.0, (number + 1) / _WARMUP)
        optimizer.learning_rate = way.lr * warm * (1 + np.cos(np.pi * done)) / 2
        mx.eval(step(*batch), state)


def outputs_of(model: nn.Module) -> Callable[[mx.array], mx.array]:
    """What a model makes of vectors ``[B, E]``."""
    if isinstance(model, EnergyLattice):
        return lambda x: model(x).vector
    return model


def in_parts(function: Callable[[mx.array], mx.array], rows: np.ndarray) -> np.ndarray:
    """What a function makes of rows, some at a time."""
    starts = range(0, len(rows), _AT_ONCE)
    parts = [np.array(function(mx.array(rows[at : at + _AT_ONCE]))) for at in starts]
    return np.concatenate(parts)


def measure(model: nn.Module, pairs: Pairs) -> float:
    """Mean cosine of a model's outputs to the targets."""
    return pairs.cosine(in_parts(outputs_of(model), pairs.sources))


def solve_last(model: nn.Module, train: Pairs, choosing: Pairs) -> None:
    """Put the best last linear map for the training pairs into a model."""
    if isinstance(model, EnergyLattice):
        collector, model.collector = model.collector, Faces()
        features = partial(in_parts, outputs_of(model))
        collector.direct = mx.array(best_linear_map(train, choosing, features)[0].T)
        model.collector = collector
        return
    features = partial(in_parts, model.features)
    found = mx.array(best_linear_map(train, choosing, features)[0].T)
    hidden = model.stack.layers[-1].weight.shape[1]
    model.stack.layers[-1].weight = found[:, :hidden]
    model.stack.layers[-1].bias = mx.zeros((len(found),))
    model.direct = found[:, hidden:]


class Faces(nn.Module):
    """In a collector's place: the cells of both faces as they are."""

    def __call__(self, faces: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Faces ``[B, 2H, W]`` as rows, ``[B, 2HW]``."""
        return faces.reshape(len(faces), -1)


def compare(
    args: argparse.Namespace, name: str, sets: Sequence[Pairs], linear: np.ndarray
) -> dict[str, Any]:
    """A way with every seed: cosines of the lattice and of its MLP on dev and test."""
    train, choosing, _ = sets
    way = WAYS[name]
    record: dict[str, Any] = {"way": name, "settings": asdict(way)}
    for kind in ("lattice", "mlp"):
        found = []
        for seed in args.seeds:
            mx.random.seed(seed)
            if kind == "lattice":
                model: nn.Module = build_lattice(way, linear, train, choosing)
                parameters = count(model)
            else:
                model = build_mlp(way, linear, parameters)
            given = batches(args.updates, _BATCH, seed, train)
            train_model(args, way, model, given)
            found.append(settle(model, way, sets))
        record[kind] = {"parameters": count(model), "seeds": found}
    return record


def settle(model: nn.Module, way: Way, sets: Sequence[Pairs]) -> dict[str, float]:
    """Cosines of a trained model; of its last map solved too, where dev prefers it."""
    train, choosing, test = sets
    model.eval()
    forms = [{"dev": measure(model, choosing), "test": measure(model, test)}]
    if way.solves:
        solve_last(model, train, choosing)
        forms.append({"dev": measure(model, choosing), "test": measure(model, test)})
    found = max(forms, key=lambda form: form["dev"])
    if isinstance(model, EnergyLattice):
        said = model(mx.array(test.sources[:_AT_ONCE])).statistics
        found |= {name: said[name].item() for name in _REPORTED}
    return found


def mean(record: dict[str, Any], kind: str, part: str) -> float:
    """Mean over the seeds."""
    return float(np.mean([found[part] for found in record[kind]["seeds"]]))


def main() -> None:
    """Compare the ways one after another; each adds itself to the output."""
    args = parse()
    sets = read(args)
    _, choosing, test = sets
    linear, penalty = best_linear_map(*sets[:2])
    record: dict[str, Any] = {
        "benchmark": "lattice_pairs",
        "command": " ".join(["python", *sys.argv]),
        "device": str(mx.default_device()),
        "mlx": mx.__version__,
        "updates": args.updates,
        "identity": {"dev": choosing.cosine(choosing.sources)},
        "linear": {
            "penalty": penalty,
            "dev": choosing.cosine(choosing.sources @ linear),
        },
        "random": [random_layer(seed, sets) for seed in args.seeds],
        "ways": [],
    }
    record["identity"]["test"] = test.cosine(test.sources)
    record["linear"]["test"] = test.cosine(test.sources @ linear)
    print(json_text(record), flush=True)
    for name in args.ways:
        found = compare(args, name, sets, linear)
        record["ways"].append(found)
        print(json_text(found), flush=True)
        best = max(record["ways"], key=lambda way: mean(way, "lattice", "dev"))
        record["chosen"] = best["way"]
        rival = max(record["ways"], key=lambda way: mean(way, "mlp", "dev"))
        record["chosen_mlp"] = rival["way"]
        rivals = [mean(rival, "mlp", "test"), record["linear"]["test"]]
        rivals.append(float(np.mean([found["test"] for found in record["random"]])))
        record["refuted"] = mean(best, "lattice", "test") <= max(rivals)
        if args.output:
            args.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(json_text(record))


if __name__ == "__main__":
    main()

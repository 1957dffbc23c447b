"""The objectives that a configuration trains, and the rules they put on it."""

from collections.abc import Mapping
from typing import Any

from energyflow_mlx.config import Config, chosen_objectives
from energyflow_mlx.config.checks import require
from energyflow_mlx.config.training import TRAINED
from energyflow_mlx.runs.record import Record
from energyflow_mlx.training.objectives import Objective
from energyflow_mlx.training.validation import measures_of


def build_objectives(config: Config) -> dict[str, Objective]:
    """Objectives of a run, by name.

    Raises:
        InputError: The configuration does not fit what they need.
    """
    chosen = chosen_objectives(config.objectives)
    require(bool(chosen), "objectives", "at least one objective", "none")
    objectives = {
        name: Objective.registered[name](settings, config)
        for name, settings in chosen.items()
    }
    _check(objectives, config)
    return objectives


def parts_of(objectives: dict[str, Objective]) -> frozenset[str]:
    """Top-level parts of the model that any of the objectives needs."""
    prefixes = (part for o in objectives.values() for part in o.uses)
    return frozenset(prefix.partition(".")[0] for prefix in prefixes)


def record_of(meta: Mapping[str, Any], config: Config) -> Record:
    """What training did to the model of a checkpoint.

    Args:
        meta: The checkpoint's meta data.
        config: The run's configuration; says what was trained where an earlier version
            wrote the checkpoint.
    """
    objectives = build_objectives(config).values()
    return Record.from_json(meta, [part for o in objectives for part in o.parts])


def _check(objectives: dict[str, Objective], config: Config) -> None:
    parts, names = parts_of(objectives), ", ".join(objectives)
    if "lattice" not in parts:
        expected = f"none, because {names} has no use for one"
        require(config.lattice is None, "lattice", expected, "a lattice")
    if config.decoder.corrector:
        expected = f"false, because {names} trains no corrector"
        require("corrector" in parts, "decoder.corrector", expected, True)
    chosen = config.trainer.train
    owners = {prefix.partition(".")[0] for prefix in TRAINED[chosen] if prefix}
    expected = f"a choice whose parts {names} has"
    require(not owners or bool(owners & parts), "trainer.train", expected, chosen)
    if not parts & {"encoder", "decoder"}:
        expected = f"none, because {names} trains neither encoder nor decoder"
        require(config.share == "none", "share", expected, config.share)
    if config.data.pairs:
        unable = [name for name, o in objectives.items() if not o.takes_pairs]
        require(not unable, "data.pairs", f"false with {', '.join(unable)}", True)
    for name, objective in objectives.items():
        require(
            config.optimizer.min_lr <= objective.settings.peak_lr,
            "optimizer.min_lr",
            f"<= objectives.{name}.lr = {objective.settings.peak_lr}",
            config.optimizer.min_lr,
        )
    _check_own_pairs(objectives, config)
    if config.trainer.sts:
        expected = f"unset, because {names} trains no encoder"
        require("encoder" in parts, "trainer.sts", expected, config.trainer.sts)
    measured = measures_of(objectives.values(), config)
    require(
        config.trainer.best_metric in measured,
        "trainer.best_metric",
        f"one that {names} measures: {', '.join(measured)}",
        config.trainer.best_metric,
    )


def _check_own_pairs(objectives: dict[str, Objective], config: Config) -> None:
    """Own pairs need an objective that takes them, and who embeds them."""
    own, names = config.data.own_pairs, ", ".join(objectives)
    if not own.share:
        return
    taken = any(o.takes_own_pairs for o in objectives.values())
    key, expected = "data.own_pairs.share", f"0, because {names} takes no own pairs"
    require(taken, key, expected, own.share)
    key = "data.own_pairs.embedder"
    if own.embedder == "student":
        expected = f"teacher, because {names} trains no encoder"
        require("encoder" in parts_of(objectives), key, expected, own.embedder)
    else:
        expected = "student, because teacher=precomputed cannot read a new sentence"
        require(config.teacher.kind != "precomputed", key, expected, own.embedder)

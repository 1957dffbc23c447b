"""Which parameters train, by path."""

import re
from collections.abc import Collection, Iterable

from energyflow_mlx.config import TrainerConfig
from energyflow_mlx.config.training import TRAINED
from energyflow_mlx.training.optimizer import Arrays

_BLOCK = re.compile(
    r"^(encoder|decoder)\.(?:blocks|layers)\.(\d+)\.|^(shared)\.(\d+)\."
)


def _last_blocks(paths: Collection[str]) -> set[str]:
    """Paths inside the block that runs last in encoder and in decoder.

    Shared blocks run after a part's own blocks, so with any shared block the last
    of those is the last block of both.
    """
    found: dict[str, dict[int, set[str]]] = {}
    for path in paths:
        match = _BLOCK.match(path)
        if match:
            part = match[1] or match[3]
            number = int(match[2] or match[4])
            found.setdefault(part, {}).setdefault(number, set()).add(path)
    parts = ["shared"] if "shared" in found else list(found)
    return set().union(*(found[p][max(found[p])] for p in parts)) if parts else set()


def trainable_paths(paths: Collection[str], config: TrainerConfig) -> set[str]:
    """Paths that ``trainer.train`` makes trainable; see ``config.training.TRAINED``."""
    chosen = set(under(paths, TRAINED[config.train]))
    return chosen | _last_blocks(paths) if config.train == "last_block" else chosen


def under(paths: Iterable[str], prefixes: Collection[str]) -> list[str]:
    """Paths below one of the prefixes; an empty prefix is above all."""
    starts = tuple(f"{prefix}." if prefix else "" for prefix in prefixes)
    return sorted(path for path in paths if path.startswith(starts))


def of_these_parts(arrays: Arrays, own: Arrays) -> Arrays:
    """Arrays of the parts that are trained here.

    A run of an earlier version may hold a part that it never trained.

    Args:
        arrays: Those of a checkpoint, by name.
        own: Those that train here.
    """
    parts = {tuple(name.split(".")[:2]) for name in own}
    return {k: a for k, a in arrays.items() if tuple(k.split(".")[:2]) in parts}

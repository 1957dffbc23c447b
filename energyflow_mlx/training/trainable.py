"""Which parameters train and which token tables step by rows, by path."""

import re

import mlx.core as mx

from energyflow_mlx.config import Config

_PROJECTION = re.compile(r"^(encoder\.head|decoder\.output)\.")
_FLOW = re.compile(r"^lattice\.flow\.")
_TABLE = re.compile(r"^(encoder|decoder)\.embedding\.weight$")
_OUTPUT = re.compile(r"^decoder\.(output\.weight|output\.bias|output_bias)$")
_BLOCK = re.compile(
    r"^(encoder|decoder)\.(?:blocks|layers)\.(\d+)\.|^(shared)\.(\d+)\."
)


def _last_blocks(paths: set[str]) -> set[str]:
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
    parts = ["shared"] if "shared" in found else [p for p in found]
    return set().union(*(found[p][max(found[p])] for p in parts)) if parts else set()


def trainable_paths(parameters: dict[str, mx.array], config: Config) -> set[str]:
    """Paths that ``trainer.train`` makes trainable.

    ``projection``: the encoder's projection and the decoder's output. ``last_block``:
    these and the last block. ``flow``: what moves the lattice's flows. ``all``:
    everything.
    """
    paths = set(parameters)
    if config.trainer.train == "all":
        return paths
    if config.trainer.train == "flow":
        return {p for p in paths if _FLOW.match(p)}
    chosen = {p for p in paths if _PROJECTION.match(p)}
    if config.trainer.train == "last_block":
        chosen |= _last_blocks(paths)
    return chosen


def lazy_tables(parameters: dict[str, mx.array], config: Config) -> set[str]:
    """Paths of the tables that enter an update as its rows only.

    Token tables do with ``optimizer.lazy_rows``; the decoder's output rows do with
    ``loss.candidates``. A token table that is also the output matrix gets a dense
    gradient from a full softmax and is then stepped as a whole.
    """
    lazy = set()
    if config.optimizer.lazy_rows:
        lazy |= {p for p in parameters if _TABLE.match(p)}
    if config.loss.candidates:
        lazy |= {p for p in parameters if _OUTPUT.match(p)}
    elif config.decoder.tied:
        lazy.discard("decoder.embedding.weight")
    return lazy


def is_input_table(path: str, config: Config) -> bool:
    """Whether the table is only ever looked up, never an output matrix."""
    tied = config.decoder.tied and path == "decoder.embedding.weight"
    return bool(_TABLE.match(path)) and not tied

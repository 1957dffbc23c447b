"""From config to sentences: those a run trains on, and those it is measured on."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from energyflow_mlx.build.edits import with_edits
from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import (
    SentenceSet,
    file_numbers,
    permutation,
    read_many,
    split,
)
from energyflow_mlx.data.distinct import count_among
from energyflow_mlx.data.hugging_face import read_column
from energyflow_mlx.data.sources import SUFFIXES
from energyflow_mlx.data.vectors import require_targets
from energyflow_mlx.errors import InputError


def run_sentences(
    config: Config, say: Callable[[str], None]
) -> tuple[SentenceSet, SentenceSet, str]:
    """What ``read_sets`` gives, with the run's edits among the training sentences.

    Args:
        config: The run's configuration.
        say: Is told of held-out sentences that are trained on too.

    Raises:
        InputError: As for ``read_sets``, or there can be no edits.
    """
    train, held_out, source = read_sets(config)
    train, source = with_edits(train, held_out, source, config)
    if train.texts is not None and held_out.texts is not None:
        seen = count_among(held_out.texts, train.texts)
        if seen:
            say(
                f"[data] {seen:,} of {len(held_out):,} held-out sentences are training "
                "sentences too: what is measured on them says little of new ones."
            )
    return train, held_out, source


def read_sets(config: Config) -> tuple[SentenceSet, SentenceSet, str]:
    """Training and held-out sentences, and a word on where they came from.

    Raises:
        InputError: A file is missing, empty, damaged or of the wrong kind.
    """
    data = config.data
    if data.train:
        _check_suffixes([*data.train, *data.val], data.format)
        train = _read(data.train, data.split, data)
        source = ", ".join(Path(p).name for p in data.train)
    else:
        train = SentenceSet(generate_captions(data.captions, config.seed), None, None)
        source = f"built-in captions ({data.captions})"
    if data.val:
        held_out = _read(data.val, data.val_split, data)
    else:
        train, held_out = split(train, data.val_fraction, config.seed)
    if data.limit and data.limit < len(train):
        keep = permutation(len(train), config.seed)[: data.limit]
        train = train.subset(np.sort(keep))
    return train, held_out, source


def _read(names: Sequence[str], split_name: str, data: DataConfig) -> SentenceSet:
    """Files, or one split of each dataset, as one set."""
    if data.format != "hf":
        found = read_many([Path(name) for name in names], data.text_column)
        if data.pairs and found.texts is None and found.targets is not None:
            _require_both(found.targets, ", ".join(names))
        return found
    read = partial(
        read_column, column=data.text_column, split=split_name, subset=data.subset
    )
    parts = [read(name) for name in names]
    return SentenceSet(list(chain(*parts)), files=file_numbers(parts))


def _require_both(rows: np.ndarray, source: str) -> None:
    """Refuse rows of two vectors ``[N, 2E]`` where one of the two is none."""
    count, width = rows.shape
    if width % 2:
        raise InputError(
            f"[data] {source}: data.pairs=true must have rows of two vectors, an even "
            f"number of columns, got {width}."
        )
    halves = rows.reshape(2 * count, width // 2)
    names = ("first", "second")
    require_targets(
        halves,
        lambda i: f"{source} row {i // 2}, the {names[i % 2]} of its two vectors",
    )


def _check_suffixes(paths: Sequence[str], kind: str) -> None:
    for path in paths if kind in SUFFIXES else ():
        if not path.endswith(SUFFIXES[kind]):
            raise InputError(
                f"[data] {path} must end in {' or '.join(SUFFIXES[kind])}, "
                f"because data.format is {kind}."
            )

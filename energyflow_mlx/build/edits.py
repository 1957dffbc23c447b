"""From config to edited sentences: they join a run's training sentences."""

import numpy as np

from energyflow_mlx.config import Config
from energyflow_mlx.data.dataset import NO_FILE, SentenceSet
from energyflow_mlx.data.edits import TRIES, edited_sentences
from energyflow_mlx.errors import InputError


def with_edits(
    train: SentenceSet, held_out: SentenceSet, source: str, config: Config
) -> tuple[SentenceSet, str]:
    """A run's training sentences with edits after them, where it is to have any.

    Args:
        train: Training sentences of the run.
        held_out: Its held-out ones, which no edit equals.
        source: Where the sentences came from.
        config: The run's configuration.

    Returns:
        Training sentences, and the source with the number of edits.

    Raises:
        InputError: The teacher cannot read the sentences, or there are too few of them
            for so many edits.
    """
    settings = config.data.edits
    if not settings.count:
        return train, source
    texts, unseen = _texts(train, "training"), _texts(held_out, "held-out")
    if train.targets is not None:
        raise InputError(
            "[data] data.edits.count must be 0 where the training data brings its own "
            f"vectors, got {settings.count}: nothing has made vectors of the edits."
        )
    chosen = [texts[i] for i in train.places_in(config.data.train, settings.of)]
    made = edited_sentences(chosen, texts + unseen, settings.count, config.seed)
    if len(made) < settings.count:
        raise InputError(
            f"[data] data.edits.count must be below {settings.count:,}: "
            f"{TRIES * settings.count:,} tries gave {len(made):,} different edits; "
            f"sentences to edit: {len(chosen):,}."
        )
    source = f"{source}, {len(made):,} edited sentences"
    files = np.zeros(len(train), np.int32) if train.files is None else train.files
    files = np.concatenate([files, np.full(len(made), NO_FILE, np.int32)])
    return SentenceSet(texts + made, files=files), source


def _texts(sentences: SentenceSet, which: str) -> list[str]:
    if sentences.texts is None or sentences.ids is not None:
        raise InputError(
            f"[data] data.edits must have {which} sentences as text, got "
            f"{'vectors alone' if sentences.ids is None else 'token ids'}."
        )
    return sentences.texts

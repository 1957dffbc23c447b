"""Pairs of sentences that mean the same: files, and batches for a contrastive loss.

``.tsv`` has ``sentence<TAB>sentence`` lines, ``.jsonl`` records with ``text`` and
``pair_target``; both may be ``.gz``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from energyflow_mlx.data.batching import Batch, BucketBatcher, pad_rows
from energyflow_mlx.data.files import read_lines
from energyflow_mlx.data.jsonl import read_jsonl
from energyflow_mlx.errors import InputError


class TextPairs(NamedTuple):
    """First and second sentences, as many of each."""

    first: list[str]
    second: list[str]


def read_pairs(path: Path) -> TextPairs:
    """Read a file of pairs; see the module.

    Raises:
        InputError: The file is missing, empty or of another kind, or a line is damaged;
            names the line.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        records = read_jsonl(path)
        if records.texts is None or records.pair_texts is None:
            raise InputError(
                f"[pairs] {path}: every record must have 'text' and 'pair_target'."
            )
        return TextPairs(records.texts, records.pair_texts)
    if not name.endswith(".tsv"):
        raise InputError(
            f"[pairs] {path} must end in .tsv, .jsonl or one of them and .gz."
        )
    rows = [_parse(path, number, line) for number, line in read_lines(path)]
    if not rows:
        raise InputError(f"[pairs] {path} must hold pairs, got an empty file.")
    first, second = zip(*rows, strict=True)
    return TextPairs(list(first), list(second))


def _parse(path: Path, number: int, line: str) -> tuple[str, str]:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 2 or not all(fields):
        raise InputError(
            f"[pairs] {path}: line {number} must be two sentences with a tab between, "
            f"got {len(fields)} fields{'' if all(fields) else ', one of them empty'}."
        )
    return fields[0], fields[1]


class PairBatcher(BucketBatcher):
    """Training batches of pairs: rows 2i and 2i + 1 are the sentences of pair i."""

    def __init__(
        self,
        first: Sequence[np.ndarray],
        second: Sequence[np.ndarray],
        *,
        vocab_size: int,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
    ) -> None:
        """Check everything once; arguments as for ``BucketBatcher``.

        Args:
            first: Token ids of the first sentences.
            second: Token ids of the second ones.
            vocab_size: V.
            batch_size: Pairs of each batch.
            buckets: Lengths to pad to; the longer of a pair chooses.
            seed: Seed of the epochs' orders.
        """
        self._sides = first, second
        longer = [
            a if len(a) > len(b) else b for a, b in zip(*self._sides, strict=True)
        ]
        super().__init__(
            longer,
            np.zeros((len(longer), 1), np.float32),
            vocab_size=vocab_size,
            batch_size=batch_size,
            buckets=buckets,
            seed=seed,
        )

    def batch(self, bucket: int, indices: np.ndarray) -> Batch:
        """Padded arrays of pairs, ``[2B, L]``; they have no vectors, ``[2B, 1]``."""
        rows = [side[i] for i in indices for side in self._sides]
        ids, mask = pad_rows(rows, bucket)
        return Batch(ids, mask, np.zeros((len(rows), 1), np.float32))

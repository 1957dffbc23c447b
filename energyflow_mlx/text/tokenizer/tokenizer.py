"""Text to token ids and back.

Two kinds share one path: text -> ids of a Hugging Face tokenizer (the source, see
``teacher_tokenizer.py``) -> student ids -> cut to length, keeping the end token. Back:
student ids -> words -> sentence (``detokenize.py``).

``wordpiece``: the source is the teacher's tokenizer, and each of its pieces is spelt
with the student's smaller vocabulary (see ``vocabulary.py``). Rows that are already
source ids enter the path in its middle and give the same student ids.
``bpe``: an own byte-level BPE; source and student ids are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.atomic import write_text
from energyflow_mlx.runtime.json_text import json_text
from energyflow_mlx.runtime.received import MOST_TOKENIZER, read_text
from energyflow_mlx.text.tokenizer.detokenize import detokenize
from energyflow_mlx.text.tokenizer.record import (
    SOURCE_FILE,
    STUDENT_FILE,
    VERSION,
    Kind,
    digest_of,
    read_record,
    require_vocabulary,
    sha256_of_text,
)
from energyflow_mlx.text.tokenizer.teacher_tokenizer import (
    check_word_pieces,
    count_pieces,
    encode_blocks,
    parse_tokenizer,
    pieces_by_id,
    train_byte_pairs,
)
from energyflow_mlx.text.tokenizer.vocabulary import (
    CONTINUES,
    END,
    PAD,
    SPECIALS,
    START,
    SpecialIds,
    Vocabulary,
    cut,
    join_bytes,
    keep_all,
    surface,
)

_SHORTEST = 3  # start, one token, end


class Tokenizer:
    """Maps sentences to rows of token ids and back.

    Made by ``from_source``, ``train_bpe`` or ``load``.

    Attributes:
        kind: ``wordpiece`` or ``bpe``.
        tokens: The student's tokens; their place is their id.
        vocab_size: Number of student tokens, V.
        source_ids: Id of each student token in the source vocabulary, ``[V]`` int32.
        special: Ids of padding, unknown, start and end; 0 to 3.
        fingerprint: sha256 of everything that decides the ids.
    """

    def __init__(self, kind: Kind, source_json: str, vocabulary: Vocabulary) -> None:
        path = Path(SOURCE_FILE)
        self._source_json = source_json
        self._source = parse_tokenizer(source_json, path)
        self._pieces = pieces_by_id(self._source, path)
        self._source_id = {name: self._pieces.index(name) for name in SPECIALS}
        self._spelling, self._begins = vocabulary.expansions(self._pieces)
        self._surfaces = [surface(token) for token in vocabulary.tokens]
        self._continues = [token.startswith(CONTINUES) for token in vocabulary.tokens]
        # Most sentences are words of ASCII and a full stop: joined without a look at
        # the neighbours, in a fraction of the time.
        self._plain = {
            i
            for i, text in enumerate(self._surfaces)
            if i >= len(SPECIALS) and text.isascii() and text.isalnum()
        }
        stops = {i for i, token in enumerate(vocabulary.tokens) if token == "."}
        self._last = self._plain | stops
        self._spaced = [
            text if continues or i in stops else " " + text
            for i, (text, continues) in enumerate(
                zip(self._surfaces, self._continues, strict=True)
            )
        ]
        self.kind: Kind = kind
        self.tokens = vocabulary.tokens
        self.source_ids = vocabulary.source_ids
        self.vocab_size = len(self.tokens)
        self.special = SpecialIds(*range(len(SPECIALS)))
        self.fingerprint = digest_of(self._record())

    @classmethod
    def from_source(
        cls,
        tokenizer_json: Path,
        corpus: Iterable[str] | Iterable[np.ndarray] | None,
        *,
        min_count: int = 1,
    ) -> Tokenizer:
        """Cut a teacher's WordPiece vocabulary to what a corpus needs.

        Args:
            tokenizer_json: The teacher's tokenizer file.
            corpus: Sentences, or their rows of source ids, that decide which pieces
                stay; None keeps all.
            min_count: Keep a piece that the corpus uses this often.

        Raises:
            InputError: The file is not a WordPiece tokenizer with BERT's specials.
        """
        text = read_text(tokenizer_json, "tokenizer", MOST_TOKENIZER)
        teacher = parse_tokenizer(text, tokenizer_json)
        check_word_pieces(teacher, tokenizer_json)
        pieces = pieces_by_id(teacher, tokenizer_json)
        if corpus is None:
            return cls("wordpiece", text, keep_all(pieces))
        counts = count_pieces(teacher, corpus)
        return cls("wordpiece", text, cut(pieces, counts, min_count))

    @classmethod
    def train_bpe(cls, corpus: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-level BPE; it spells any text, and decoding gives it back.

        Args:
            corpus: Training sentences.
            vocab_size: Most tokens, special tokens and the 256 bytes included.

        Raises:
            ValueError: ``vocab_size`` has no room for the bytes.
        """
        text = train_byte_pairs(corpus, vocab_size)
        path = Path(SOURCE_FILE)
        pieces = pieces_by_id(parse_tokenizer(text, path), path)
        return cls("bpe", text, keep_all(pieces))

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Encode sentences.

        Args:
            texts: Sentences; an empty one gives start and end.
            max_length: Most ids in a row; a longer row is cut before its end id.

        Returns:
            One int32 row per text, from start id to end id.

        Raises:
            TypeError: ``texts`` is a single string.
        """
        if isinstance(texts, str):
            raise TypeError(
                "[tokenizer] texts must be a list of strings, got a string."
            )
        bodies = chain.from_iterable(encode_blocks(self._source, texts))
        return self._finish(list(bodies), max_length)

    def shares_source(self, other: Tokenizer) -> bool:
        """Whether both were made from one tokenizer file."""
        return self._source_json == other._source_json

    def to_source_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode sentences in the source vocabulary, uncut, for token files.

        Returns:
            One int32 row per text, from the source's start id to its end id.
        """
        ends = [self._source_id[START], self._source_id[END]]
        start, end = (np.array([i], np.int32) for i in ends)
        bodies = chain.from_iterable(encode_blocks(self._source, texts))
        return [np.concatenate([start, row, end]) for row in bodies]

    def from_source_ids(
        self, rows: Sequence[np.ndarray], max_length: int
    ) -> list[np.ndarray]:
        """Translate rows of source ids; the same ids as ``encode`` of their text.

        Args:
            rows: Source ids, with or without the source's start and end ids;
                padding at the end is dropped.
            max_length: As for ``encode``.

        Returns:
            One int32 row per row.

        Raises:
            InputError: An id is outside the source vocabulary; names row and id.
        """
        bodies = [self._strip(np.asarray(row)) for row in rows]
        for index, row in enumerate(bodies):
            bad = row[(row < 0) | (row >= len(self._pieces))]
            if len(bad):
                raise InputError(
                    f"[tokenizer] row {index}: token ids must be in "
                    f"[0, {len(self._pieces)}), got {bad[0]}."
                )
        return self._finish(bodies, max_length)

    def decode(self, rows: Iterable[np.ndarray]) -> list[str]:
        """Turn rows of student ids into sentences.

        Args:
            rows: Ids; reading stops at the first end id, special tokens are dropped.

        Returns:
            One sentence per row. For ``wordpiece`` it is what ``normalize`` makes of
            the encoded text, up to spaces around punctuation that English spelling
            does not decide.
        """
        return [self._decode_row(np.asarray(row)) for row in rows]

    def normalize(self, texts: Iterable[str]) -> list[str]:
        """Bring texts to the form that ``decode`` gives back.

        For ``wordpiece``: as the source normalises (lower case, no accents, if the
        teacher is so), runs of white space made one. For ``bpe``: unchanged.
        """
        normalizer = self._source.normalizer
        if self.kind == "bpe":
            return list(texts)
        if normalizer is None:
            return [" ".join(text.split()) for text in texts]
        return [" ".join(normalizer.normalize_str(text).split()) for text in texts]

    @property
    def spelling(self) -> tuple[np.ndarray, np.ndarray]:
        """Student ids of every source piece one after another, and where each begins.

        Int32 ``[sum of counts]`` and ``[S + 1]``, for S source pieces.
        """
        return self._spelling, self._begins

    def bare_source(self) -> str:
        """``tokenizer.json`` of the source, which neither cuts nor pads a text."""
        return parse_tokenizer(self._source_json, Path(SOURCE_FILE)).to_str()

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``student_vocab.json`` into ``folder``."""
        write_text(Path(folder) / SOURCE_FILE, self._source_json)
        signed = self._record() | {"fingerprint": self.fingerprint}
        text = json_text(signed)
        write_text(Path(folder) / STUDENT_FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what ``save`` wrote.

        Raises:
            InputError: A file is missing or damaged, or the two do not belong
                together.
        """
        path = Path(folder) / STUDENT_FILE
        source = Path(folder) / SOURCE_FILE
        source_json = read_text(source, "tokenizer", MOST_TOKENIZER)
        record = read_record(path)
        if record["source_sha256"] != sha256_of_text(source_json):
            raise InputError(
                f"[tokenizer] {folder}: {SOURCE_FILE} is damaged, or not the one that "
                f"{STUDENT_FILE} was made from."
            )
        pieces = pieces_by_id(parse_tokenizer(source_json, source), source)
        require_vocabulary(record, pieces, path)
        source_ids = np.array(record["source_ids"], np.int32)
        vocabulary = Vocabulary(tuple(record["tokens"]), source_ids)
        return cls(record["kind"], source_json, vocabulary)

    def _record(self) -> dict[str, Any]:
        """Everything that decides the ids, as written to the disk."""
        return {
            "version": VERSION,
            "kind": self.kind,
            "source_sha256": sha256_of_text(self._source_json),
            "tokens": list(self.tokens),
            "source_ids": self.source_ids.tolist(),
        }

    def _strip(self, row: np.ndarray) -> np.ndarray:
        """Source ids without the padding, start and end around them."""
        if row.size and not np.issubdtype(row.dtype, np.integer):
            raise InputError(
                f"[tokenizer] token ids must be integers, got {row.dtype}."
            )
        specials = self._source_id
        real = np.flatnonzero(row != specials[PAD])
        row = row[: real[-1] + 1] if len(real) else row[:0]
        if len(row) and row[0] == specials[START]:
            row = row[1:]
        if len(row) and row[-1] == specials[END]:
            row = row[:-1]
        return row

    def _finish(self, bodies: list[np.ndarray], max_length: int) -> list[np.ndarray]:
        """Source ids to student rows: spell, cut, add start and end."""
        if max_length < _SHORTEST:
            raise ValueError(
                f"[tokenizer] max_length must be >= {_SHORTEST}, got {max_length}."
            )
        if not bodies:
            return []
        # All rows lie end to end in one array, so that no Python loop runs over tokens.
        source = np.concatenate(bodies).astype(np.int64)
        sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        ids, spelt = self._expand(source)
        # Student ids before each source id, hence before each row.
        before = np.concatenate([[0], np.cumsum(spelt)])
        begins = before[np.concatenate([[0], np.cumsum(sizes)])]
        # Start and end take two places, so that a cut row still has its end.
        lengths = np.minimum(np.diff(begins), max_length - 2)
        place = np.arange(len(ids)) - np.repeat(begins[:-1], np.diff(begins))
        is_kept = place < np.repeat(lengths, np.diff(begins))
        ends = np.cumsum(lengths + 2)
        starts = ends - lengths - 2
        flat = np.empty(ends[-1], np.int32)
        is_body = np.ones(len(flat), bool)
        is_body[starts] = is_body[ends - 1] = False
        flat[starts], flat[ends - 1] = self.special.start, self.special.end
        # Bodies keep their order, so what is left of the places is filled in one go.
        flat[is_body] = ids[is_kept]
        return np.split(flat, ends[:-1])

    def _expand(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Student ids of source ids, and how many each became."""
        # Spellings differ in length, so they lie end to end in one array, cut at
        # ``_begins``: two gathers then spell a whole corpus.
        first = self._begins[source]
        spelt = self._begins[source + 1] - first
        within = np.arange(spelt.sum()) - np.repeat(np.cumsum(spelt) - spelt, spelt)
        return self._spelling[np.repeat(first, spelt) + within], spelt

    def _decode_row(self, row: np.ndarray) -> str:
        ids: list[int] = row.tolist()
        if ids and not (0 <= min(ids) and max(ids) < self.vocab_size):
            raise ValueError(
                f"[tokenizer] ids must be in [0, {self.vocab_size}), "
                f"got {min(ids)} to {max(ids)}."
            )
        if self.special.end in ids:
            ids = ids[: ids.index(self.special.end)]
        ids = [i for i in ids if i >= len(SPECIALS)]
        if self.kind == "bpe":
            return self._source.decode(ids)
        if self._plain.issuperset(ids[:-1]) and self._last.issuperset(ids[-1:]):
            return "".join([self._spaced[i] for i in ids]).removeprefix(" ")
        words: list[str] = []
        for i in ids:
            if words and self._continues[i]:
                words[-1] += self._surfaces[i]
            else:
                words.append(self._surfaces[i])
        return detokenize([join_bytes(word) for word in words])

"""The teacher's Hugging Face tokenizer, the source of a student's: read and applied.

A student with its own vocabulary has a source too, trained here: a byte-level BPE.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from energyflow_mlx.errors import InputError, TokenizerErrors
from energyflow_mlx.text.tokenizer.vocabulary import CONTINUES, SPECIALS

Item = TypeVar("Item")

_BLOCK_TEXTS = 8192
_BYTE_ALPHABET = 256
_MOST_SPELLING = 10**8  # 250,000 pieces of 8 characters make a sixth of it


def parse_tokenizer(text: str, path: Path) -> tokenizers.Tokenizer:
    """Parse a tokenizer and set it up to encode whole texts as they stand.

    Args:
        text: Contents of a ``tokenizer.json``.
        path: Where it came from, for messages.

    Raises:
        InputError: It is not a tokenizer.
    """
    with TokenizerErrors(path):
        tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # "[SEP]" in a text is five characters, not the end of the sentence.
    tokenizer.encode_special_tokens = True
    return tokenizer


def check_word_pieces(teacher: tokenizers.Tokenizer, path: Path) -> None:
    """Refuse a teacher's tokenizer whose vocabulary cannot be cut.

    Raises:
        InputError: It is not a WordPiece tokenizer with BERT's special tokens.
    """
    missing = [name for name in SPECIALS if teacher.token_to_id(name) is None]
    model = teacher.model
    is_word_piece = isinstance(model, models.WordPiece)
    if missing or not is_word_piece or model.continuing_subword_prefix != CONTINUES:
        raise InputError(
            f"[tokenizer] {path}: must be a WordPiece tokenizer with the prefix "
            f"{CONTINUES} and the tokens {' '.join(SPECIALS)}; tokenizer.kind=bpe "
            "works with any teacher."
        )


def train_byte_pairs(corpus: Iterable[str], vocab_size: int) -> str:
    """Train a byte-level BPE and return its ``tokenizer.json``.

    Args:
        corpus: Training sentences.
        vocab_size: Most tokens, special tokens and the 256 bytes included.

    Raises:
        ValueError: ``vocab_size`` has no room for the bytes.
    """
    smallest = _BYTE_ALPHABET + len(SPECIALS)
    if vocab_size < smallest:
        raise ValueError(
            f"[tokenizer] vocab_size must be >= {smallest}, got {vocab_size}."
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str()


def encode_blocks(
    source: tokenizers.Tokenizer, texts: Iterable[str]
) -> Iterator[list[np.ndarray]]:
    """Encode texts without special tokens, a bounded block at a time.

    Yields:
        Source ids of up to 8,192 texts, one int32 row each.
    """
    for block in _blocks(texts):
        # The fast form leaves out the places in the text, which nobody reads.
        encodings = source.encode_batch_fast(block, add_special_tokens=False)
        yield [np.array(encoding.ids, np.int32) for encoding in encodings]


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while block := list(itertools.islice(remaining, _BLOCK_TEXTS)):
        yield block


def count_pieces(
    source: tokenizers.Tokenizer, corpus: Iterable[str] | Iterable[np.ndarray]
) -> np.ndarray:
    """Count how often a corpus, of texts or of rows of source ids, uses each piece.

    Returns:
        ``[S]`` int64.

    Raises:
        InputError: A row holds an id outside the vocabulary.
    """
    size = source.get_vocab_size(with_added_tokens=True)
    counts = np.zeros(size, np.int64)
    remaining: Iterator[Any] = iter(corpus)
    first = next(remaining, "")
    whole: Iterator[Any] = itertools.chain([first], remaining)
    blocks: Iterable[Any] = (
        encode_blocks(source, whole) if isinstance(first, str) else _blocks(whole)
    )
    for rows in blocks:
        ids = np.concatenate(rows).astype(np.int64)
        if len(ids) and not (0 <= ids.min() and ids.max() < size):
            raise InputError(
                f"[tokenizer] token ids must be in [0, {size}), "
                f"got {ids.min()} to {ids.max()}."
            )
        counts += np.bincount(ids, minlength=size)
    return counts


def pieces_by_id(tokenizer: tokenizers.Tokenizer, path: Path) -> list[str]:
    """List a tokenizer's vocabulary by id.

    Raises:
        InputError: The ids are not 0, 1, 2 and so on, or the pieces are so long that
            spelling them with others would take minutes.
    """
    vocab: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    pieces = sorted(vocab, key=vocab.__getitem__)
    if [vocab[piece] for piece in pieces] != list(range(len(pieces))):
        raise InputError(f"[tokenizer] {path}: token ids must be 0, 1, 2 and so on.")
    if (work := sum(len(piece) ** 2 for piece in pieces)) > _MOST_SPELLING:
        longest = max(map(len, pieces))
        raise InputError(
            f"[tokenizer] {path}: squares of the pieces' lengths must sum to at most "
            f"{_MOST_SPELLING}, got {work}; the longest has {longest} characters."
        )
    return pieces

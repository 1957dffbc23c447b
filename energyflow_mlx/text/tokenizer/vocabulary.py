"""Cuts a teacher's WordPiece vocabulary to what a corpus needs.

A piece of the source vocabulary stays when the corpus uses it often enough. Every
other piece is spelt with pieces that stay: the longest that fits, again and again.
Characters that no such piece covers are spelt by their UTF-8 bytes, as in the byte
fallback of SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226), with tokens
named ``<0xE8>``. So nothing becomes unknown that the source vocabulary knows, and
nothing is lost, while the some 1,800 single characters of other scripts that a BERT
vocabulary holds cost about a hundred tokens.

The characters that stay whatever the corpus holds are those of English text: ASCII,
Latin-1, general punctuation and currency signs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from energyflow_mlx.errors import InputError

CONTINUES = "##"
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIALS = (PAD, UNKNOWN, START, END)
# First and last code point of the characters that always stay.
_ENGLISH_RANGES = ((0x0000, 0x00FF), (0x2010, 0x2027), (0x20A0, 0x20BF))
# Python's own way to carry a single byte in a string ("surrogateescape").
_BYTE_CARRIER = 0xDC00
_BYTE_NAME = re.compile("<0x[0-9A-Fa-f]{2}>")


class SpecialIds(NamedTuple):
    """Ids of the tokens with a meaning of their own, in the order of ``SPECIALS``.

    Attributes:
        pad: Fills a batch up, and follows the end in generation; never chosen there.
        unknown: Stands for a piece that cannot be spelt.
        start: Token every sentence starts from; never chosen in generation.
        end: Token that ends a sentence.
    """

    pad: int
    unknown: int
    start: int
    end: int


def body(piece: str) -> str:
    """Return the piece without its continuation mark."""
    return piece.removeprefix(CONTINUES) if piece != CONTINUES else piece


def byte_name(byte: int) -> str:
    """Return the name of a byte's token, such as ``<0xE8>``."""
    return f"<0x{byte:02X}>"


def surface(piece: str) -> str:
    """Return the text a piece stands for; a byte becomes an escaped byte."""
    text = body(piece)
    if _BYTE_NAME.fullmatch(text):
        byte = int(text[3:5], 16)
        return chr(byte) if byte < 0x80 else chr(_BYTE_CARRIER + byte)
    return text


def join_bytes(text: str) -> str:
    """Turn escaped bytes in ``text`` into the characters that they spell."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_always_kept(piece: str) -> bool:
    """Whether a piece stays without being in the corpus: an English character."""
    character = body(piece)
    if len(character) != 1:
        return False
    code = ord(character)
    if not any(first <= code <= last for first, last in _ENGLISH_RANGES):
        return False
    # A punctuation mark is a word of its own: it never continues one.
    return piece == character or not _is_punctuation(character)


def _is_punctuation(character: str) -> bool:
    """BERT's notion: also the ASCII symbols that Unicode does not call punctuation."""
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character).startswith("P")


def spell(
    piece: str, is_kept: Callable[[str], bool], continues: str = CONTINUES
) -> tuple[str, ...]:
    """Spell a piece with kept pieces and bytes.

    Args:
        piece: A piece of the source vocabulary.
        is_kept: Whether a piece is in the student's vocabulary.
        continues: Mark of a piece that continues a word; empty where none is marked.

    Returns:
        The piece itself when it is kept; otherwise the longest kept piece that fits,
        then the next, with bytes where none fits.
    """
    if is_kept(piece):
        return (piece,)
    text = body(piece) if continues else piece
    mark = "" if text == piece else continues
    spelling: list[str] = []
    start = 0
    while start < len(text):
        found, start = _longest(text, start, mark, is_kept)
        spelling += found
        mark = continues
    return tuple(spelling)


def _longest(
    text: str, start: int, mark: str, is_kept: Callable[[str], bool]
) -> tuple[list[str], int]:
    """The kept piece that covers most of ``text[start:]``, and where it ends."""
    for end in range(len(text), start, -1):
        if is_kept(mark + text[start:end]):
            return [mark + text[start:end]], end
    character = text[start]
    if is_kept(character):  # a mark that never continues a word, met inside a piece
        return [character], start + 1
    lead, *rest = character.encode("utf-8")
    named = [mark + byte_name(lead), *(CONTINUES + byte_name(byte) for byte in rest)]
    return named, start + 1


@dataclass(frozen=True)
class Vocabulary:
    """The student's tokens and how the source's pieces are spelt with them.

    Attributes:
        tokens: The student's tokens; their place is their id.
        source_ids: Id of each token in the source vocabulary, ``[V]`` int32; that of
            the unknown token for bytes, which the source does not have.
    """

    tokens: tuple[str, ...]
    source_ids: np.ndarray

    def expansions(self, pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Student ids of every source piece, one after another.

        Args:
            pieces: The source vocabulary by id, S pieces.

        Returns:
            Student ids ``[sum of counts]`` and the place where each piece's begin,
            ``[S + 1]``, both int32.

        Raises:
            InputError: A piece cannot be spelt with the tokens.
        """
        ids = {token: i for i, token in enumerate(self.tokens)}
        try:
            spelt = [[ids[t] for t in spell(p, ids.__contains__)] for p in pieces]
        except KeyError as error:
            raise InputError(
                f"[tokenizer] the tokens must spell every piece, {error} is missing."
            ) from None
        begins = np.zeros(len(pieces) + 1, np.int32)
        begins[1:] = np.cumsum([len(row) for row in spelt])
        return np.array([i for row in spelt for i in row], np.int32), begins


def keep_all(pieces: Sequence[str]) -> Vocabulary:
    """Keep the whole source vocabulary: specials first, then by source id."""
    return _ordered(pieces, set(pieces), np.zeros(len(pieces), np.int64))


def cut(pieces: Sequence[str], counts: np.ndarray, min_count: int) -> Vocabulary:
    """Keep what a corpus needs.

    Args:
        pieces: The source vocabulary by id, S pieces.
        counts: How often the corpus uses each, ``[S]``.
        min_count: Keep a piece that is used this often; a single character that is
            used at all is always kept.

    Returns:
        Special tokens first, then by falling use in the corpus (spellings of dropped
        pieces count), ties by source id.
    """
    kept = set(SPECIALS)
    for piece, count in zip(pieces, counts, strict=True):
        needed = 1 if len(body(piece)) == 1 else min_count
        if count >= needed or is_always_kept(piece):
            kept.add(piece)
    return _ordered(pieces, kept, counts)


def _ordered(pieces: Sequence[str], kept: set[str], counts: np.ndarray) -> Vocabulary:
    """Order kept pieces, and the bytes that the others need, by use."""
    source_id = {piece: i for i, piece in enumerate(pieces)}
    used: dict[str, int] = dict.fromkeys(kept, 0)
    for piece, count in zip(pieces, counts, strict=True):
        for token in spell(piece, kept.__contains__):
            used[token] = used.get(token, 0) + int(count)
    unknown = source_id[UNKNOWN]
    ranked = sorted(
        (token for token in used if token not in SPECIALS),
        key=lambda token: (-used[token], source_id.get(token, unknown), token),
    )
    tokens = (*SPECIALS, *ranked)
    ids = [source_id.get(token, unknown) for token in tokens]
    return Vocabulary(tokens, np.array(ids, np.int32))

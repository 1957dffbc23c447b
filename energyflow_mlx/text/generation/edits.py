"""Sentences that differ from a guess by a token or a moved phrase.

A guess that is nearly right seldom becomes right by being written anew: an article is
missing, or two phrases have changed places. The decoder reads the guess once, all
places in parallel, and says what is likely at each; w_t is the guess's token at place
t, p_t the distribution before it:

    u in place of w_t   log p_t(u) - log p_t(w_t)
    u before w_t        log p_t(u) - 1
    w_t left out        log p_t(w_{t+1}) - log p_t(w_t)

The edits with the greatest of these come first. Of a phrase that stands elsewhere a
decoder that reads from left to right says little, so phrases are moved at random.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

TRIED = 24  # edits of a sentence in a round
LIKELIEST = 6  # tokens that may come in at a place
_INSERTED = 1.0  # what a token more has to be likelier by
_LONGEST_MOVED = 4  # tokens of a phrase
_MOVED = 1 / 3  # share of the edits that move a phrase
_TRIES = 2  # draws for each phrase to be moved: some are no edit, or an old one


class Likely(NamedTuple):
    """What a decoder finds likely in sentences of ``L`` tokens, start included.

    Place ``l`` is that of the token ``l + 1``.

    Attributes:
        tokens: The likeliest tokens, ``[n, L - 1, K]``.
        log_p: Their log probabilities, ``[n, L - 1, K]``.
        own: That of the sentence's own token, ``[n, L - 1]``.
        after: That of the own token after it, at the same place, ``[n, L - 1]``.
    """

    tokens: np.ndarray
    log_p: np.ndarray
    own: np.ndarray
    after: np.ndarray


def edits_of(
    row: np.ndarray,
    likely: Likely,
    count: int,
    random: np.random.Generator,
    tried: set[bytes],
) -> list[np.ndarray]:
    """Edits of one sentence that were not tried yet, the likeliest first.

    Args:
        row: Its tokens with start and end, ``[L]``.
        likely: What is likely in it, without the axis of sentences.
        count: Edits wanted; there may be fewer.
        random: Chooses the phrases that move.
        tried: Rows that were tried, as bytes; those returned are added.

    Returns:
        Rows of tokens with start and end, int32.
    """
    found: list[np.ndarray] = []
    moved = round(count * _MOVED)
    phrases = _moved(row, _TRIES * moved, random)
    for edits, most in ((_likeliest(row, likely), count - moved), (phrases, count)):
        for edit in edits:
            if len(found) >= most:
                break
            if (key := edit.tobytes()) not in tried:
                tried.add(key)
                found.append(edit)
    return found


def _likeliest(row: np.ndarray, likely: Likely) -> Iterator[np.ndarray]:
    """Edits of a token, the likeliest first."""
    places = len(row) - 1
    tokens, log_p, own, after = (array[:places] for array in likely)
    replaced = log_p - own[:, None]
    replaced[tokens == row[1:, None]] = -np.inf  # no edit
    replaced[-1] = -np.inf  # the end stays
    left_out = after - own
    left_out[-1] = -np.inf
    scores = np.concatenate(
        [replaced, log_p - _INSERTED, left_out[:, None]], axis=1
    ).reshape(-1)
    width = 2 * LIKELIEST + 1
    for choice in np.argsort(-scores, kind="stable"):
        if scores[choice] == -np.inf:
            return
        place, kind = divmod(int(choice), width)
        new = tokens[place, kind % LIKELIEST : kind % LIKELIEST + 1]
        if kind == width - 1:
            new = new[:0]
        rest = row[place + 1 if kind // LIKELIEST == 1 else place + 2 :]
        yield np.concatenate([row[: place + 1], new, rest]).astype(np.int32)


def _moved(
    row: np.ndarray, tries: int, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """Sentences with a phrase that stands elsewhere."""
    words = row[1:-1]
    if len(words) < 2:
        return
    for size, start, goal in random.random((tries, 3)):
        length = 1 + int(size * min(_LONGEST_MOVED, len(words) - 1))
        first = int(start * (len(words) - length + 1))
        rest = np.delete(words, np.s_[first : first + length])
        place = int(goal * (len(rest) + 1))
        if place != first:
            phrase = words[first : first + length]
            yield np.concatenate(
                [row[:1], rest[:place], phrase, rest[place:], row[-1:]]
            ).astype(np.int32)
